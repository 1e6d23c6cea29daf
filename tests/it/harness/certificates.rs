//! A certificate authority of a test's own, with certificates of a server on this machine and of a client.

use std::{fs, io::Write as _, path::PathBuf, process::Command};

use tempfile::TempDir;

/// Makes the authority and both certificates.
const SCRIPT: &str = r#"set -e
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $key -keyout ca.key -out ca.pem -days 2 -subj /CN=test-authority \
    -addext keyUsage=critical,keyCertSign
sign() {
    openssl req $key -keyout "$1.key" -out "$1.csr" -subj "/CN=$2"
    printf 'basicConstraints=CA:FALSE\nsubjectAltName=%s\n' "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -out "$1.pem" -days 2 -extfile "$1.ext"
}
sign server localhost DNS:localhost,IP:127.0.0.1
sign client postgres DNS:client
"#;

/// Certificates and keys in a temporary folder.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    /// Makes them; `None`, with a note, if `openssl` cannot.
    pub(crate) fn create() -> Option<Self> {
        let folder = TempDir::with_prefix("it-certificates-").expect("there is room for files");
        let made = Command::new("sh").args(["-c", SCRIPT]).current_dir(folder.path()).output();
        let made = made.expect("a shell exists");
        if made.status.success() {
            return Some(Self(folder));
        }
        skip(&format!("openssl cannot make certificates: {}", String::from_utf8_lossy(&made.stderr)));
        None
    }

    /// The file of this name: `ca.pem`, `server.pem`, `server.key`, `client.pem` or `client.key`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        assert!(fs::exists(&path).expect("the folder can be read"), "there is no {name}");
        path
    }

    /// The name of a file in a URL.
    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The parameters of a URL of PostgreSQL with the client's certificate.
    pub(crate) fn postgres_parameters(&self) -> String {
        format!(
            "?sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}",
            self.name("ca.pem"),
            self.name("client.pem"),
            self.name("client.key")
        )
    }
}

/// Notes why a test does nothing on this machine.
pub(crate) fn skip(why: &str) {
    let _ = writeln!(std::io::stderr().lock(), "skipped: {why}");
}
