//! Secrets that are read from files.

use std::{collections::HashMap, fs};

/// The end of the name of a variable whose value is the name of a file with a secret.
const SUFFIX: &str = "_FILE";

/// Replaces each variable `NAME_FILE` by `NAME` with the content of the file, for the variables that `is_secret` accepts.
///
/// # Errors
/// One line for each file that cannot be read, and for each secret that is also given directly.
pub(super) fn read_files(
    variables: HashMap<String, String>,
    is_secret: impl Fn(&str) -> bool,
) -> Result<HashMap<String, String>, Vec<String>> {
    let (files, mut values): (Vec<_>, HashMap<_, _>) = {
        let is_file = |name: &str| base(name).is_some_and(&is_secret);
        let (files, values): (HashMap<_, _>, HashMap<_, _>) =
            variables.into_iter().partition(|(name, _)| is_file(name));
        (files.into_iter().collect(), values)
    };
    let mut mistakes = Vec::new();
    for (name, path) in files {
        let base = base(&name).unwrap_or(&name);
        if values.keys().any(|given| given.eq_ignore_ascii_case(base)) {
            mistakes.push(format!("{name}: {base} is set, too; unset one of them"));
            continue;
        }
        match fs::read_to_string(&path) {
            Ok(secret) => drop(values.insert(base.to_owned(), secret.trim().to_owned())),
            Err(error) => mistakes.push(format!("{name}: cannot read {path:?}: {error}")),
        }
    }
    mistakes.sort_unstable();
    if mistakes.is_empty() { Ok(values) } else { Err(mistakes) }
}

/// The name of the variable with the secret itself.
fn base(name: &str) -> Option<&str> {
    let (base, suffix) = name.split_at_checked(name.len().checked_sub(SUFFIX.len())?)?;
    suffix.eq_ignore_ascii_case(SUFFIX).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<HashMap<String, String>, Vec<String>> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        read_files(variables.collect(), |name| ["URL", "TOKEN"].contains(&name))
    }

    #[test]
    fn a_secret_is_the_content_of_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "s3cret\n").unwrap();
        let path = file.path().to_str().unwrap();
        let values = read(&[("TOKEN_FILE", path), ("OTHER_FILE", path), ("URL", "u")]).unwrap();
        assert_eq!(values["TOKEN"], "s3cret");
        assert_eq!(values["OTHER_FILE"], path, "this is no secret");
        assert_eq!(values.len(), 3);
    }

    #[test]
    fn a_mistake_names_the_variable_and_contains_no_secret() {
        let mistakes = read(&[("TOKEN_FILE", "/no/such/file"), ("URL_FILE", "/dev/null"), ("URL", "s3cret")]);
        let mistakes = mistakes.unwrap_err();
        assert!(mistakes[0].starts_with("TOKEN_FILE: cannot read \"/no/such/file\": "), "{mistakes:?}");
        assert_eq!(mistakes[1..], ["URL_FILE: URL is set, too; unset one of them"]);
    }
}
