//! A connection pooler of a test's own.

use std::{
    fs::{self, File},
    io::{Write as _, stderr},
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use url::Url;

use super::{
    private_server::account,
    wait::{SOON, wait_until},
};

/// A running `PgBouncer` in front of one database. Dropping it stops it.
pub(crate) struct PgBouncer {
    _folder: TempDir,
    url: String,
    server: Child,
}

impl PgBouncer {
    /// Starts a pooler in front of the database of `url`. `mode` is `session`, `transaction` or `statement`, and `options`
    /// are further lines of its configuration. `None` if `PgBouncer` is not installed.
    pub(crate) async fn start(url: &str, mode: &str, options: &str) -> Option<Self> {
        let Some(program) = program() else {
            let _ = writeln!(stderr(), "skipped: PgBouncer is not installed; run: apt-get install pgbouncer");
            return None;
        };
        let mut url = Url::parse(url).expect("the URL of a database");
        let folder = TempDir::with_prefix("it-pgbouncer-").expect("there is room for files");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .expect("a port is free")
            .port();
        let (host, server_port) = (url.host_str().expect("a host").to_owned(), url.port().unwrap_or(5432));
        let password = url.password().unwrap_or_default();
        let users = folder.path().join("users");
        fs::write(&users, format!("\"{}\" \"{password}\"\n", url.username()))
            .expect("there is room for files");
        let configuration = folder.path().join("pgbouncer.ini");
        let lines = format!(
            "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\nmax_client_conn = 200\n\
             default_pool_size = 20\n{options}\n",
            users.display()
        );
        fs::write(&configuration, lines).expect("there is room for files");
        let mut command = Command::new(program);
        if let Some((user, group)) = account() {
            for path in [folder.path(), &users, &configuration] {
                chown(path, Some(user), Some(group)).expect("root may change the owner");
            }
            command.uid(user).gid(group);
        }
        let log = File::create(folder.path().join("log")).expect("there is room for files");
        let server = command
            .arg("-q")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        url.set_port(Some(port)).expect("the URL has a host");
        let server =
            Self { _folder: folder, url: url.into(), server: server.expect("PgBouncer can be started") };
        let answers = async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until("PgBouncer accepts connections", SOON, answers).await;
        Some(server)
    }

    /// The URL of the database through the pooler.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // At once: its clients are gone.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The variable `PGBOUNCER` names another version than the installed one.
fn program() -> Option<PathBuf> {
    let installed = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].map(PathBuf::from);
    let named = std::env::var_os("PGBOUNCER").map(PathBuf::from);
    named.into_iter().chain(installed).find(|path| path.exists())
}
