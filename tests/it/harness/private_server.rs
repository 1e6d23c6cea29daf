//! A PostgreSQL cluster of a test's own, for what concerns a whole server.

use std::{
    fs::{self, File, Permissions},
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use super::{
    certificates::Certificates,
    wait::{SOON, wait_until},
};

/// A running cluster. Dropping it stops the server.
pub(crate) struct PrivatePostgres {
    _folder: TempDir,
    port: u16,
    server: Child,
    /// The parameters of every URL, with the question mark.
    parameters: String,
}

impl PrivatePostgres {
    /// Creates a cluster of this encoding, without a locale, and starts it. Every role may log in.
    pub(crate) async fn start(encoding: &str) -> Self {
        Self::launch(folder(), encoding, &[], String::new()).await
    }

    /// Creates a cluster that accepts only clients with a certificate, whose name is that of their role.
    pub(crate) async fn start_with_certificates(certificates: &Certificates) -> Self {
        let folder = folder();
        for file in ["ca.pem", "server.pem", "server.key"] {
            let copy = folder.path().join(file);
            fs::copy(certificates.path(file), &copy).expect("there is room for files");
            fs::set_permissions(&copy, Permissions::from_mode(0o600)).expect("the file has a mode");
            own(&copy);
        }
        let access = folder.path().join("access");
        fs::write(&access, "hostssl all all 127.0.0.1/32 cert").expect("there is room for files");
        own(&access);
        let file = |name: &str| folder.path().join(name).display().to_string();
        let options = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", file("server.pem")),
            format!("ssl_key_file={}", file("server.key")),
            format!("ssl_ca_file={}", file("ca.pem")),
            format!("hba_file={}", file("access")),
        ];
        Self::launch(folder, "UTF8", &options, certificates.postgres_parameters()).await
    }

    async fn launch(folder: TempDir, encoding: &str, settings: &[String], parameters: String) -> Self {
        let data = folder.path().join("data");
        let options = ["-U", "postgres", "-A", "trust", "-E", encoding, "--no-locale", "--no-sync", "-D"];
        let made = command("initdb").args(options).arg(&data).output().expect("PostgreSQL is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port is free");
        let log = File::create(folder.path().join("log")).expect("there is room for files");
        let mut server = command("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(folder.path()).args(["-p", &port.port().to_string()]);
        server.args([
            "-c",
            "listen_addresses=127.0.0.1,127.0.0.2",
            "-c",
            "shared_buffers=16MB",
            "-c",
            "fsync=off",
        ]);
        for setting in settings {
            server.args(["-c", setting]);
        }
        let server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let server = server.expect("the server can be started");
        let server = Self { _folder: folder, port: port.port(), server, parameters };
        let answers = async || PgConnection::connect(&server.url("postgres", "postgres")).await.is_ok();
        wait_until("the server accepts connections", SOON, answers).await;
        server
    }

    /// The URL of a database for a role.
    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}{}", self.port, self.parameters)
    }

    /// Runs statements one by one in the database `postgres`, as its owner.
    pub(crate) async fn execute(&self, statements: &[&str]) {
        let mut connection = self.connect("postgres").await;
        for statement in statements {
            let done = sqlx::raw_sql(statement).execute(&mut connection).await;
            done.unwrap_or_else(|error| panic!("{error}: {statement}"));
        }
    }

    /// A connection to a database, as its owner.
    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        PgConnection::connect(&self.url("postgres", database)).await.expect("the server accepts connections")
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let pid = self.server.id().to_string();
        let _ = Command::new("sh").arg("-c").arg(format!("kill -s QUIT {pid}")).status();
        let _ = self.server.wait();
    }
}

/// A folder that the server may use.
fn folder() -> TempDir {
    let folder = TempDir::with_prefix("it-postgres-").expect("there is room for files");
    own(folder.path());
    folder
}

/// Makes the account of the server the owner of a file.
fn own(path: &Path) {
    if let Some((user, group)) = account() {
        chown(path, Some(user), Some(group)).expect("root may change the owner");
    }
}

/// A program of the newest installed version, run by the account `postgres` if the tests run as root.
fn command(program: &str) -> Command {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut programs: Vec<PathBuf> = versions
        .map(|version| version.path().join("bin").join(program))
        .filter(|path| path.exists())
        .collect();
    programs.sort();
    let mut command = Command::new(programs.pop().unwrap_or_else(|| program.into()));
    command.current_dir("/");
    if let Some((user, group)) = account() {
        command.uid(user).gid(group);
    }
    command
}

/// User and group of the account `postgres`, if the tests run as root, which the server refuses.
pub(super) fn account() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").expect("Linux has it").uid() != 0 {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").expect("there are accounts");
    let account = accounts.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = account.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
