//! A private PostgreSQL cluster that can be crashed.

use std::{
    fs::{self, File},
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use super::{control_variables, free_port, if_exists, latest_entry, send_signal, tail};
use crate::wait::{POLL, wait_until};

/// Time limit of a start; the children of a killed postmaster may delay it.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// The executables of the newest installed version.
pub(super) fn binaries() -> Option<PathBuf> {
    if_exists(latest_entry("/usr/lib/postgresql", "")?.join("bin"))
        .filter(|bin| bin.join("postgres").exists())
}

/// A cluster in a temporary directory. Dropping it stops the server.
pub(crate) struct Postgres {
    folder: TempDir,
    binaries: PathBuf,
    port: u16,
    /// The account of the server if the tests run as root, which the server refuses.
    owner: Option<(u32, u32)>,
    postmaster: Mutex<Option<Child>>,
}

impl Postgres {
    /// Creates a cluster and starts it.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let postgres = Self {
            folder: TempDir::with_prefix("chaos-postgres-")?,
            binaries: binaries().context("PostgreSQL is not installed")?,
            port: free_port()?,
            owner: owner()?,
            postmaster: Mutex::new(None),
        };
        if let Some((uid, gid)) = postgres.owner {
            chown(postgres.folder.path(), Some(uid), Some(gid))?;
        }
        let options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"];
        let made = postgres
            .command("initdb")
            .args(options)
            .arg(postgres.data())
            .stdout(Stdio::null())
            .stderr(File::create(postgres.log())?)
            .status()?;
        ensure!(made.success(), "initdb ended with {made}:\n{}", tail(&postgres.log()));
        postgres.run().await?;
        Ok(postgres)
    }

    /// The URL of a database for a role; without TLS, so that the proxy can read the messages.
    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Runs statements in a database, as its owner.
    pub(crate) async fn execute(&self, database: &str, statements: &str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.url("postgres", database)).await?;
        sqlx::raw_sql(statements).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// Kills one session of the program, so that the server recovers from a crash. Returns the number of transactions
    /// that were open in the database.
    pub(crate) async fn crash_backend(&self, database: &str) -> anyhow::Result<i64> {
        let mut watch = PgConnection::connect(&self.url("postgres", "postgres")).await?;
        let open: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and datname = $1
             and application_name ~ '^allocation( relay.*)?$' and xact_start is not null and state <> 'idle'",
        )
        .bind(database)
        .fetch_one(&mut watch)
        .await?;
        let backend: Option<i32> = sqlx::query_scalar(
            "select pid from pg_stat_activity where backend_type = 'client backend' and datname = $1
             and application_name ~ '^allocation( relay.*)?$' order by (state <> 'idle') desc, pid limit 1",
        )
        .bind(database)
        .fetch_optional(&mut watch)
        .await?;
        let backend = u32::try_from(backend.context("the program has no session")?)?;
        send_signal(backend, Signal::KILL)?;
        // This session ends with the crash; a connection attempt before that would succeed.
        wait_until("the server crashes", START_TIMEOUT, async || {
            anyhow::Ok(sqlx::raw_sql("select 1").execute(&mut watch).await.is_err())
        })
        .await?;
        self.wait_until_available().await?;
        Ok(open)
    }

    /// Kills the postmaster and starts the server again.
    pub(crate) async fn crash(&self) -> anyhow::Result<()> {
        self.stop(Signal::KILL)?;
        self.run().await
    }

    /// Stops the server immediately, as `pg_ctl stop -m immediate` does.
    pub(crate) fn stop_immediately(&self) -> anyhow::Result<()> {
        self.stop(Signal::QUIT)
    }

    /// Starts the server and waits until it accepts connections. The children of a killed postmaster may prevent it
    /// for a while.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < START_TIMEOUT {
            self.stop(Signal::QUIT)?;
            self.spawn()?;
            while self.is_running()? && begin.elapsed() < START_TIMEOUT {
                if self.accepts_connections().await && self.is_running()? {
                    return Ok(());
                }
                tokio::time::sleep(POLL * 4).await;
            }
        }
        bail!("PostgreSQL did not start within {START_TIMEOUT:?}:\n{}", tail(&self.log()))
    }

    /// Whether it accepts connections.
    pub(crate) async fn accepts_connections(&self) -> bool {
        PgConnection::connect(&self.url("postgres", "postgres")).await.is_ok()
    }

    async fn wait_until_available(&self) -> anyhow::Result<Duration> {
        wait_until("PostgreSQL accepts connections", START_TIMEOUT, async || {
            anyhow::Ok(self.accepts_connections().await)
        })
        .await
    }

    /// Starts a postmaster as a child process.
    fn spawn(&self) -> anyhow::Result<()> {
        let log = File::options().append(true).create(true).open(self.log())?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        command.args(["-p", &self.port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "max_connections=200", "shared_buffers=64MB"] {
            command.args(["-c", setting]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        *self.postmaster.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Whether the postmaster is running.
    fn is_running(&self) -> anyhow::Result<bool> {
        let mut postmaster = self.postmaster.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = postmaster.as_mut() else { return Ok(false) };
        Ok(child.try_wait()?.is_none())
    }

    fn stop(&self, signal: Signal) -> anyhow::Result<()> {
        let mut postmaster = self.postmaster.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = postmaster.take()
            && child.try_wait()?.is_none()
        {
            kill_process(Pid::from_child(&child), signal)?;
            child.wait()?;
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.current_dir("/");
        for variable in control_variables() {
            command.env_remove(variable);
        }
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.stop(Signal::QUIT);
    }
}

/// User and group of the account `postgres`, if the tests run as root.
fn owner() -> anyhow::Result<Option<(u32, u32)>> {
    if fs::metadata(Path::new("/proc/self"))?.uid() != 0 {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd")?;
    let account = accounts.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = account.context("no account named postgres")?.split(':').skip(2);
    let mut number =
        || fields.next().and_then(|field| field.parse().ok()).context("the account has no numeric ids");
    Ok(Some((number()?, number()?)))
}
