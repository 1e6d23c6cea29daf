-- The trace in which an attempt is recorded, in hexadecimal digits; none if it is not recorded.
alter table failed_attempts add column trace_id text;
