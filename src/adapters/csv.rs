//! CSV files: reads rows with their line numbers, and replaces a file atomically.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use csv::{ErrorKind, Position, ReaderBuilder, StringRecord, Terminator, Trim, WriterBuilder};
use tempfile::Builder;

/// A row of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The line in which it begins.
    pub line: u64,
    /// The column and text of each field that is not empty.
    pub fields: Vec<(String, String)>,
}

/// Why a row is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {error}")]
pub struct RowError {
    /// The line in which it begins.
    pub line: u64,
    /// The field and what is wrong with it.
    pub error: String,
}

/// Reads a file whose first line names its columns, in any order and in small or capital letters. Blanks around a field are
/// ignored, and so are empty columns and rows at the right and at the end of a sheet.
///
/// Returns the valid rows and the errors of the others. If a column of `columns` is missing, there are no valid rows.
///
/// # Errors
/// The file cannot be read.
pub fn read(file: &Path, columns: &[&str]) -> io::Result<(Vec<Row>, Vec<RowError>)> {
    parse(&fs::read(file)?, columns)
}

/// Parses the content of a file as [`read`] does.
pub(crate) fn parse(text: &[u8], columns: &[&str]) -> io::Result<(Vec<Row>, Vec<RowError>)> {
    let mut lines = LineCounter { text, at: 0, line: 1 };
    // A row may have more fields than the first line names, as long as they are empty.
    let mut reader = ReaderBuilder::new().trim(Trim::All).flexible(true).from_reader(text);
    let names = match reader.headers() {
        Ok(headers) => column_names(headers),
        Err(error) => return row_error(error, &[], &mut lines).map(|bad| (Vec::new(), vec![bad])),
    };
    let mut bad = invalid_columns(&names, columns);
    if !bad.is_empty() {
        return Ok((Vec::new(), bad));
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        match record {
            Ok(record) if record.iter().all(str::is_empty) => {}
            Ok(record) => match row(&names, &record, &mut lines) {
                Ok(row) => rows.push(row),
                Err(error) => bad.push(error),
            },
            Err(error) => bad.push(row_error(error, &names, &mut lines)?),
        }
    }
    Ok((rows, bad))
}

/// The names of the columns without the empty ones at the right, in small letters.
fn column_names(headers: &StringRecord) -> Vec<String> {
    let mut names: Vec<_> = headers.iter().map(str::to_lowercase).collect();
    while names.last().is_some_and(String::is_empty) {
        names.pop();
    }
    names
}

fn invalid_columns(names: &[String], columns: &[&str]) -> Vec<RowError> {
    let missing = columns.iter().filter(|column| !names.iter().any(|name| name == **column));
    let missing = missing.map(|name| format!("no column {name}"));
    let occurs_before = |at: usize, name: &String| !name.is_empty() && names[..at].contains(name);
    let twice = names.iter().enumerate().filter(|(at, name)| occurs_before(*at, name));
    let twice = twice.map(|(_, name)| format!("two columns {name}"));
    missing.chain(twice).map(|error| RowError { line: 1, error }).collect()
}

/// Counts lines. The position of the reader may be between the two characters of a line ending.
struct LineCounter<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
}

impl LineCounter<'_> {
    /// The line in which the row begins that was read from `position`. Positions must not decrease.
    fn of(&mut self, position: Option<&Position>) -> u64 {
        let from = position.map_or(0, |position| usize::try_from(position.byte()).unwrap_or(usize::MAX));
        let ended = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let rest = self.text.get(from..).unwrap_or_default();
        let begin = from + rest.iter().take_while(|byte| ended(byte)).count();
        let between = self.text.get(self.at..begin).unwrap_or_default();
        self.line += between.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
        self.at = begin.max(self.at);
        self.line
    }
}

fn row(columns: &[String], record: &StringRecord, lines: &mut LineCounter<'_>) -> Result<Row, RowError> {
    let line = lines.of(record.position());
    let invalid = |error| Err(RowError { line, error });
    if let Some(name) = columns.get(record.len()) {
        let (found, expected) = (record.len(), columns.len());
        return invalid(format!("{name}: the row has {found} fields, the first line names {expected}"));
    }
    let mut fields = Vec::with_capacity(columns.len());
    for (at, text) in record.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let Some(name) = columns.get(at).filter(|name| !name.is_empty()) else {
            return invalid(format!("{text:?}: the first line names no column {}", at + 1));
        };
        fields.push((name.clone(), text.to_owned()));
    }
    Ok(Row { line, fields })
}

/// The error of a row; any other error concerns the file.
fn row_error(error: csv::Error, names: &[String], lines: &mut LineCounter<'_>) -> io::Result<RowError> {
    let position = error.position().cloned();
    let ErrorKind::Utf8 { err, .. } = error.kind() else { return Err(error.into()) };
    let name = names.get(err.field()).filter(|name| !name.is_empty());
    let name = name.map_or_else(|| format!("column {}", err.field() + 1), Clone::clone);
    Ok(RowError { line: lines.of(position.as_ref()), error: format!("{name}: not UTF-8") })
}

/// Replaces a file atomically, and writes it to the disk.
///
/// # Errors
/// The file cannot be written. It is unchanged, unless the only error was to write the new directory entry to the disk.
pub fn replace<'a>(
    file: &Path,
    columns: &[&str],
    rows: impl Iterator<Item = [&'a str; 4]>,
) -> io::Result<()> {
    // Replaces the target of a link, not the link.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let folder = file.parent().unwrap_or(Path::new("."));
    let default_mode = Permissions::from_mode(0o666); // the umask applies
    let mut new = Builder::new().prefix(".allocations-").permissions(default_mode).tempfile_in(folder)?;
    if let Ok(old) = fs::metadata(&file) {
        new.as_file().set_permissions(old.permissions())?;
    }
    write(io::BufWriter::new(&mut new), columns, rows)?;
    new.as_file().sync_all()?;
    new.persist(&file)?;
    File::open(folder)?.sync_all()
}

/// Writes the content of a file.
pub(crate) fn write<'a>(
    into: impl io::Write,
    columns: &[&str],
    rows: impl Iterator<Item = [&'a str; 4]>,
) -> io::Result<()> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(into);
    writer.write_record(columns)?;
    for row in rows {
        writer.write_record(row)?;
    }
    writer.into_inner().map_err(|error| io::Error::other(error.to_string()))?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(bytes: &[u8]) -> (Vec<Row>, Vec<String>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let (rows, bad) = read(file.path(), &["orderid", "sku"]).unwrap();
        (rows, bad.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_row_has_its_line_and_its_fields_by_name() {
        let rows = read_text(b"\xef\xbb\xbfsku, orderid,more\r\nLAMP,\"o\n1\",\r\n\r\n VASE ,o2,x\r\n").0;
        let lines: Vec<_> = rows.iter().map(|row| row.line).collect();
        assert_eq!(lines, [2, 5]);
        let field = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(rows[0].fields, [field("sku", "LAMP"), field("orderid", "o\n1")]);
        assert_eq!(rows[1].fields, [field("sku", "VASE"), field("orderid", "o2"), field("more", "x")]);
    }

    #[test]
    fn every_invalid_row_is_reported() {
        let (rows, bad) = read_text(b"orderid,sku\no1\no2,LAMP\no3,\xff\no4,LAMP,x\n");
        assert_eq!(rows.len(), 1);
        assert_eq!(
            bad,
            [
                "line 2: sku: the row has 1 fields, the first line names 2",
                "line 4: sku: not UTF-8",
                "line 5: \"x\": the first line names no column 3",
            ]
        );
        assert_eq!(read_text(b"sku,orderid,sku\nA,o1,B\n").1, ["line 1: two columns sku"]);
        assert_eq!(read_text(b"orderid,qty\no1,1\n").1, ["line 1: no column sku"]);
        let (_, bad) = read_text(b"orderid,,sku\no1,x,A\n");
        assert_eq!(bad, ["line 2: \"x\": the first line names no column 2"]);
    }

    #[test]
    fn a_file_is_read_as_spreadsheets_write_it() {
        let (rows, bad) = read_text(
            b"\xef\xbb\xbfOrderID, SKU ,Qty,,\r\no1,LAMP,2,,\r\n,,,,\r\no2,VASE,3\r\n\"o3\",\"SOFA\",,,\r\n,,,,\r\n,,,,",
        );
        assert_eq!(bad, [""; 0]);
        let found: Vec<_> = rows.iter().map(|row| (row.line, row.fields.len(), &*row.fields[1].1)).collect();
        assert_eq!(found, [(2, 3, "LAMP"), (4, 3, "VASE"), (5, 2, "SOFA")]);
        assert_eq!(rows[0].fields[0].0, "orderid");
    }

    #[test]
    fn a_file_is_replaced_and_keeps_its_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("allocations.csv");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
        replace(&file, &["a", "b", "c", "d"], [["1", "x,y", "3", "4"]].into_iter()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "a,b,c,d\r\n1,\"x,y\",3,4\r\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o664);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
