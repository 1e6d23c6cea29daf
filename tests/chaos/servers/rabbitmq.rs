//! A broker of our own, with its own port mapper, cookie and data.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use lapin::{Connection, ConnectionProperties};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process_group},
};
use tempfile::TempDir;

use super::{existing, foreign_variables, free_port, newest, tail};
use crate::wait::until;

/// A start takes so long at most, even on a small machine that does other things as well.
const STARTS_WITHIN: Duration = Duration::from_mins(2);

/// The scripts of the package itself; those on the path change the user.
pub(super) fn binaries() -> Option<PathBuf> {
    let roots = ["/usr/lib/rabbitmq/lib", "/usr/local/lib/rabbitmq/lib", "/opt/rabbitmq/lib"];
    roots.iter().find_map(|root| existing(newest(root, "rabbitmq_server-")?.join("sbin")))
}

pub(super) fn port_mapper() -> Option<PathBuf> {
    ["/usr/bin/epmd", "/usr/local/bin/epmd", "/usr/lib/erlang/bin/epmd"]
        .iter()
        .find_map(|path| existing(PathBuf::from(path)))
}

/// A node in a temporary folder. It ends with this value.
pub(crate) struct RabbitMq {
    folder: TempDir,
    binaries: PathBuf,
    port: u16,
    distribution_port: u16,
    mapper_port: u16,
    mapper: Mutex<Child>,
    node: Mutex<Option<Child>>,
}

impl RabbitMq {
    /// Makes a node and starts it.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("chaos-rabbitmq-")?;
        let binaries = binaries().context("RabbitMQ is not installed")?;
        let (port, distribution_port, mapper_port) = (free_port()?, free_port()?, free_port()?);
        let configuration = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\nraft.wal_max_size_bytes = 33554432\n\
             vm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 50MB\n"
        );
        fs::write(folder.path().join("rabbitmq.conf"), configuration)?;
        fs::write(folder.path().join("enabled_plugins"), "[].")?;
        fs::create_dir(folder.path().join("home"))?;
        // In the foreground, so that it is our child; a node that finds one starts none of its own.
        let mapper = Command::new(port_mapper().context("there is no epmd")?)
            .args(["-address", "127.0.0.1", "-port", &mapper_port.to_string()])
            .env("HOME", folder.path().join("home"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let rabbit = Self {
            folder,
            binaries,
            port,
            distribution_port,
            mapper_port,
            mapper: Mutex::new(mapper),
            node: Mutex::new(None),
        };
        rabbit.run().await?;
        Ok(rabbit)
    }

    /// How the broker is reached by a user whose password is the name.
    pub(crate) fn url_of(&self, user: &str) -> String {
        format!("amqp://{user}:{user}@127.0.0.1:{}/%2f", self.port)
    }

    /// How the broker is reached.
    pub(crate) fn url(&self) -> String {
        self.url_of("guest")
    }

    /// Starts the node and waits until it accepts.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        self.kill()?;
        let log = File::options().append(true).create(true).open(self.log())?;
        let node = self
            .script("rabbitmq-server")
            .current_dir(self.folder.path())
            // A group of its own: the script and the machine under it end together.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
        let accepts = async || {
            ensure!(self.lives()?, "RabbitMQ has ended");
            anyhow::Ok(self.answers().await)
        };
        until("RabbitMQ accepts", STARTS_WITHIN, accepts).await.with_context(|| tail(&self.log()))?;
        Ok(())
    }

    /// Whether our node has not ended.
    fn lives(&self) -> anyhow::Result<bool> {
        let mut node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = node.as_mut() else { return Ok(false) };
        Ok(child.try_wait()?.is_none())
    }

    /// Whether it lets us in.
    pub(crate) async fn answers(&self) -> bool {
        let url = self.url();
        let connecting = Connection::connect(&url, ConnectionProperties::default());
        match tokio::time::timeout(Duration::from_secs(5), connecting).await {
            Ok(Ok(connection)) => connection.close(200, "it works".into()).await.is_ok(),
            _ => false,
        }
    }

    /// Waits until the broker lets us in.
    pub(crate) async fn accepts(&self) -> anyhow::Result<Duration> {
        until("RabbitMQ accepts", STARTS_WITHIN, async || anyhow::Ok(self.answers().await)).await
    }

    /// SIGKILL. Queues that were declared within the last two seconds may be lost with it.
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        let mut node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = node.take() {
            match kill_process_group(Pid::from_child(&child), Signal::KILL) {
                // It has ended by itself, and nobody of its group is left.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
            child.wait()?;
        }
        Ok(())
    }

    /// Calls `rabbitmqctl` and gives back what it printed.
    pub(crate) async fn control(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = tokio::process::Command::from(self.script("rabbitmqctl"))
            .arg("--quiet")
            .args(arguments)
            .kill_on_drop(true)
            .output()
            .await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rabbitmqctl {}: {told}{complaint}", arguments.join(" "));
        Ok(told)
    }

    /// How many messages of a namespace are delivered and not settled.
    pub(crate) async fn unacknowledged(&self, namespace: &str) -> anyhow::Result<u64> {
        let listed = self.control(&["list_queues", "name", "messages_unacknowledged"]).await?;
        let ours = listed.lines().filter_map(|line| line.strip_prefix(namespace)?.split_once('\t'));
        let of_work = ours.filter(|(queue, _)| matches!(*queue, ".orders" | ".stock"));
        Ok(of_work.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum())
    }

    /// One of the package's scripts, for this node.
    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        for variable in foreign_variables() {
            command.env_remove(variable);
        }
        command.envs(self.environment());
        command
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let path = |name: &str| self.folder.path().join(name).into_os_string();
        vec![
            ("HOME", path("home")),
            ("RABBITMQ_NODENAME", format!("chaos{}@localhost", self.port).into()),
            ("RABBITMQ_DIST_PORT", self.distribution_port.to_string().into()),
            ("ERL_EPMD_PORT", self.mapper_port.to_string().into()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("logs")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}".into(),
            ),
        ]
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("output")
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        let _ = self.kill();
        let mut mapper = self.mapper.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = mapper.kill();
        let _ = mapper.wait();
    }
}
