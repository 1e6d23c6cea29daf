-- The search of the first batch that a line fits into costs the logarithm of the number of open batches. Most allocations
-- leave both columns as they are, so that the update of a batch touches no index.
alter table batches
    -- Grows with what is available: src/domain/size_class.rs computes the same number.
    add column size_class smallint not null generated always as (width_bucket(purchased - allocated, array[
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 30, 32, 36, 40, 44, 48, 52, 56,
        60, 64, 72, 80, 88, 96, 104, 112, 120, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320, 352, 384, 416, 448,
        480, 512, 576, 640, 704, 768, 832, 896, 960, 1024, 1152, 1280, 1408, 1536, 1664, 1792, 1920, 2048, 2304, 2560,
        2816, 3072, 3328, 3584, 3840, 4096, 4608, 5120, 5632, 6144, 6656, 7168, 7680, 8192, 9216, 10240, 11264, 12288,
        13312, 14336, 15360, 16384, 18432, 20480, 22528, 24576, 26624, 28672, 30720, 32768, 36864, 40960, 45056, 49152,
        53248, 57344, 61440, 65536, 73728, 81920, 90112, 98304, 106496, 114688, 122880, 131072, 147456, 163840, 180224,
        196608, 212992, 229376, 245760, 262144, 294912, 327680, 360448, 393216, 425984, 458752, 491520, 524288, 589824,
        655360, 720896, 786432, 851968, 917504, 983040, 1048576, 1179648, 1310720, 1441792, 1572864, 1703936, 1835008,
        1966080, 2097152, 2359296, 2621440, 2883584, 3145728, 3407872, 3670016, 3932160, 4194304, 4718592, 5242880,
        5767168, 6291456, 6815744, 7340032, 7864320, 8388608, 9437184, 10485760, 11534336, 12582912, 13631488, 14680064,
        15728640, 16777216, 18874368, 20971520, 23068672, 25165824, 27262976, 29360128, 31457280, 33554432, 37748736,
        41943040, 46137344, 50331648, 54525952, 58720256, 62914560, 67108864, 75497472, 83886080, 92274688, 100663296,
        109051904, 117440512, 125829120, 134217728, 150994944, 167772160, 184549376, 201326592, 218103808, 234881024,
        251658240, 268435456, 301989888, 335544320, 369098752, 402653184, 436207616, 469762048, 503316480, 536870912,
        603979776, 671088640, 738197504, 805306368, 872415232, 939524096, 1006632960, 1073741824, 1207959552, 1342177280,
        1476395008, 1610612736, 1744830464, 1879048192, 2013265920
    ])) stored,
    add column untouched boolean not null generated always as (allocated = 0) stored;

-- The first open batches in the order of allocation.
drop index batches_open;
create index batches_in_order on batches (sku, eta nulls first, ref collate "C") where open;
-- Of each size class the first open batches after another one. Within a class: of each quantity, those without
-- allocations, whose available quantity is the purchased one; of the others, all are read.
create index batches_by_size
    on batches (sku, size_class, untouched, coalesce(eta, '-infinity'), ref collate "C") where open;
create index batches_by_quantity
    on batches (sku, purchased, coalesce(eta, '-infinity'), ref collate "C") where open and untouched;
