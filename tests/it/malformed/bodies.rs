//! Bodies that are no JSON, or have missing or invalid fields.

use super::message::{INVALID, Malformed, line, malformed, nested_json, valid_line};

pub(super) fn invalid_bodies() -> Vec<Malformed> {
    [not_json(), wrong_lines(), wrong_fields()].into_iter().flatten().collect()
}

fn not_json() -> Vec<Malformed> {
    let valid = valid_line();
    let utf16: Vec<u8> = valid.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let texts = [
        ("no body", String::new()),
        ("blanks", " \r\n".into()),
        ("an open brace", "{".into()),
        ("cut in a string", valid[..14].to_owned()),
        ("cut before its end", valid[..valid.len() - 1].to_owned()),
        ("a byte order mark", format!("\u{feff}{valid}")),
        ("trailing characters", format!("{valid} x")),
        ("two objects", format!("{valid}{valid}")),
        ("a comment", format!("// urgent\n{valid}")),
        ("a trailing comma", valid.replace('}', ",}")),
        ("single quotes", valid.replace('"', "'")),
        ("bare names", valid.replace(r#""qty""#, "qty")),
        ("a line break in a string", valid.replace("o-bad", "o\nbad")),
        ("an unknown escape", valid.replace("o-bad", r"\x41")),
        ("an empty array", "[]".into()),
        ("the values without their names", r#"["o-bad", "LAMP", 1]"#.into()),
        ("an array of lines", format!("[{valid}]")),
        ("a string", r#""allocate""#.into()),
        ("a number", "42".into()),
        ("a boolean", "true".into()),
        ("null", "null".into()),
        ("a line in a line", format!(r#"{{"allocate": {valid}}}"#)),
    ];
    let mut all: Vec<_> =
        texts.into_iter().map(|(name, body)| malformed(name, "allocate", body, INVALID)).collect();
    all.push(malformed(
        "not UTF-8",
        "allocate",
        b"{\"orderid\": \"\xff\xfe\", \"sku\": \"LAMP\", \"qty\": 1}",
        INVALID,
    ));
    all.push(malformed("UTF-16", "allocate", utf16, INVALID));
    all.push(malformed("gzip", "allocate", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", INVALID));
    all
}

fn wrong_lines() -> Vec<Malformed> {
    let (too_long, deep) = (format!(r#""{}""#, "x".repeat(256)), nested_json(50_000));
    let texts = [
        "7",
        "null",
        "{}",
        "[]",
        "false",
        r#""""#,
        r#"" \t ""#,
        r#""a\u0000b""#,
        r#""\ud800""#,
        &too_long,
        &deep,
    ];
    let quantities = [
        "null",
        "true",
        "{}",
        "[1]",
        r#""""#,
        r#""many""#,
        r#"" 5""#,
        r#""+5""#,
        r#""1.5""#,
        r#""-1""#,
        r#""2147483648""#,
        "0",
        "-1",
        "1.5",
        "1.0",
        "1e3",
        "1e999999",
        "2147483648",
        "18446744073709551616",
        "-9223372036854775809",
        "NaN",
        "0x10",
        "01",
        &deep,
    ];
    let (orderid, sku) = (r#""o-bad""#, r#""LAMP""#);
    let mut all = Vec::new();
    for value in texts {
        all.push(malformed(&format!("orderid {value:.20}"), "allocate", line(value, sku, "1"), INVALID));
        all.push(malformed(&format!("sku {value:.20}"), "allocate", line(orderid, value, "1"), INVALID));
    }
    for value in quantities {
        all.push(malformed(&format!("qty {value:.24}"), "allocate", line(orderid, sku, value), INVALID));
    }
    all
}

fn wrong_fields() -> Vec<Malformed> {
    [
        ("allocate", "{}"),
        ("allocate", r#"{"sku": "LAMP", "qty": 1}"#),
        ("allocate", r#"{"orderid": "o-bad", "qty": 1}"#),
        ("allocate", r#"{"orderid": "o-bad", "sku": "LAMP"}"#),
        ("allocate", r#"{"orderid": "o-bad", "sku": "LAMP", "qty": 1, "qty": 1}"#),
        ("allocate", r#"{"orderid": "o-bad", "orderid": "o-bad", "sku": "LAMP", "qty": 1}"#),
        ("deallocate", r#"{"sku": "LAMP"}"#),
        ("deallocate", r#"{"orderid": "o-bad"}"#),
        ("deallocate", r#"{"orderid": "o-bad", "sku": 7}"#),
        ("create_batch", r#"{"sku": "LAMP", "qty": 1}"#),
        ("create_batch", r#"{"ref": "b-bad", "qty": 1}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP"}"#),
        ("create_batch", r#"{"ref": "  ", "sku": "LAMP", "qty": 1}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": -1}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": "tomorrow"}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": "2027-02-30"}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": "31-01-2027"}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": "2027-01-31T25:00:00"}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": ""}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": 20270131}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": true}"#),
        ("change_batch_quantity", r#"{"qty": 1}"#),
        ("change_batch_quantity", r#"{"batchref": "b-1"}"#),
        ("change_batch_quantity", r#"{"batchref": "b-1", "qty": -1}"#),
        ("change_batch_quantity", r#"{"batchref": "b-1", "qty": 1, "revision": 1.5}"#),
        ("change_batch_quantity", r#"{"batchref": "b-1", "qty": 1, "revision": "last"}"#),
        ("change_batch_quantity", r#"{"batchref": "b-1", "qty": 1, "revision": 1e30}"#),
    ]
    .into_iter()
    .enumerate()
    .map(|(number, (kind, body))| malformed(&format!("fields {number} of {kind}"), kind, body, INVALID))
    .collect()
}
