//! A cluster of our own, which can be crashed.

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

use super::{existing, foreign_variables, free_port, newest, signal, tail};
use crate::wait::{POLL, until};

/// A start takes so long at most, the end of the previous postmaster's children included.
const STARTS_WITHIN: Duration = Duration::from_mins(1);

/// The programs of the newest version that is installed.
pub(super) fn binaries() -> Option<PathBuf> {
    existing(newest("/usr/lib/postgresql", "")?.join("bin")).filter(|bin| bin.join("postgres").exists())
}

/// A cluster in a temporary folder. It ends with this value.
pub(crate) struct Postgres {
    folder: TempDir,
    binaries: PathBuf,
    port: u16,
    /// Whom the server runs as where we are root, which it refuses to be.
    owner: Option<(u32, u32)>,
    postmaster: Mutex<Option<Child>>,
}

impl Postgres {
    /// Makes a cluster and starts it.
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

    /// How a database is reached by a role; TLS is off, so that a proxy can read along.
    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Runs statements in a database, as its owner.
    pub(crate) async fn administer(&self, database: &str, statements: &str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.url("postgres", database)).await?;
        sqlx::raw_sql(statements).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// Kills one session of the program, and the server recovers from a crash. Says how many transactions were open
    /// in the database.
    pub(crate) async fn crash_a_backend(&self, database: &str) -> anyhow::Result<i64> {
        let mut watch = PgConnection::connect(&self.url("postgres", "postgres")).await?;
        let open: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and datname = $1
             and application_name = 'allocation' and xact_start is not null and state <> 'idle'",
        )
        .bind(database)
        .fetch_one(&mut watch)
        .await?;
        let victim: Option<i32> = sqlx::query_scalar(
            "select pid from pg_stat_activity where backend_type = 'client backend' and datname = $1
             and application_name = 'allocation' order by (state <> 'idle') desc, pid limit 1",
        )
        .bind(database)
        .fetch_optional(&mut watch)
        .await?;
        let victim = u32::try_from(victim.context("no session of the program to kill")?)?;
        signal(victim, Signal::KILL)?;
        // Our own session ends with the crash: before that an answer would mean nothing.
        until("the server crashes", STARTS_WITHIN, async || {
            anyhow::Ok(sqlx::raw_sql("select 1").execute(&mut watch).await.is_err())
        })
        .await?;
        self.accepts().await?;
        Ok(open)
    }

    /// Kills the postmaster and starts the server again.
    pub(crate) async fn crash(&self) -> anyhow::Result<()> {
        self.stop(Signal::KILL)?;
        self.run().await
    }

    /// Ends the server at once, as `pg_ctl stop -m immediate` does.
    pub(crate) fn stop_at_once(&self) -> anyhow::Result<()> {
        self.stop(Signal::QUIT)
    }

    /// Starts the server and waits until it accepts; the remains of a killed one may turn it away for a while.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < STARTS_WITHIN {
            self.stop(Signal::QUIT)?;
            self.launch()?;
            while self.lives()? && begin.elapsed() < STARTS_WITHIN {
                if self.answers().await && self.lives()? {
                    return Ok(());
                }
                tokio::time::sleep(POLL * 4).await;
            }
        }
        bail!("PostgreSQL did not start within {STARTS_WITHIN:?}:\n{}", tail(&self.log()))
    }

    /// Whether it lets us in.
    pub(crate) async fn answers(&self) -> bool {
        PgConnection::connect(&self.url("postgres", "postgres")).await.is_ok()
    }

    async fn accepts(&self) -> anyhow::Result<Duration> {
        until("PostgreSQL accepts", STARTS_WITHIN, async || anyhow::Ok(self.answers().await)).await
    }

    /// Starts a postmaster, which is ours from the first moment on.
    fn launch(&self) -> anyhow::Result<()> {
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

    /// Whether our postmaster has not ended.
    fn lives(&self) -> anyhow::Result<bool> {
        let mut postmaster = self.postmaster.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = postmaster.as_mut() else { return Ok(false) };
        Ok(child.try_wait()?.is_none())
    }

    fn stop(&self, with: Signal) -> anyhow::Result<()> {
        let mut postmaster = self.postmaster.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = postmaster.take()
            && child.try_wait()?.is_none()
        {
            kill_process(Pid::from_child(&child), with)?;
            child.wait()?;
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.current_dir("/");
        for variable in foreign_variables() {
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

/// User and group of the account `postgres`, if we are root.
fn owner() -> anyhow::Result<Option<(u32, u32)>> {
    if fs::metadata(Path::new("/proc/self"))?.uid() != 0 {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd")?;
    let account = accounts.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = account.context("there is no account called postgres")?.split(':').skip(2);
    let mut number = || fields.next().and_then(|field| field.parse().ok()).context("an account has numbers");
    Ok(Some((number()?, number()?)))
}
