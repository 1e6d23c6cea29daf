//! A private RabbitMQ node with its own port mapper, cookie and data.

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

use super::{control_variables, free_port, if_exists, latest_entry, tail};
use crate::wait::wait_until;

/// Time limit of a start on a small, busy machine.
const START_TIMEOUT: Duration = Duration::from_mins(2);

/// The scripts of the package itself; those on the path change the user.
pub(super) fn binaries() -> Option<PathBuf> {
    let roots = ["/usr/lib/rabbitmq/lib", "/usr/local/lib/rabbitmq/lib", "/opt/rabbitmq/lib"];
    roots.iter().find_map(|root| if_exists(latest_entry(root, "rabbitmq_server-")?.join("sbin")))
}

pub(super) fn port_mapper() -> Option<PathBuf> {
    ["/usr/bin/epmd", "/usr/local/bin/epmd", "/usr/lib/erlang/bin/epmd"]
        .iter()
        .find_map(|path| if_exists(PathBuf::from(path)))
}

/// A node in a temporary directory. Dropping it stops the node.
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
    /// Creates a node and starts it.
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
        // In the foreground, so that it is a child process; a node that finds a port mapper starts none.
        let mapper = Command::new(port_mapper().context("epmd is not installed")?)
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

    /// The URL of the broker for a user whose password equals the name.
    pub(crate) fn url_of(&self, user: &str) -> String {
        format!("amqp://{user}:{user}@127.0.0.1:{}/%2f", self.port)
    }

    /// The URL of the broker.
    pub(crate) fn url(&self) -> String {
        self.url_of("guest")
    }

    /// Starts the node and waits until it accepts connections.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        self.kill()?;
        let log = File::options().append(true).create(true).open(self.log())?;
        let node = self
            .command("rabbitmq-server")
            .current_dir(self.folder.path())
            // A process group of its own: the script and the Erlang machine end together.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
        let accepts = async || {
            ensure!(self.is_running()?, "RabbitMQ has ended");
            anyhow::Ok(self.accepts_connections().await)
        };
        wait_until("RabbitMQ accepts connections", START_TIMEOUT, accepts)
            .await
            .with_context(|| tail(&self.log()))?;
        Ok(())
    }

    /// Whether the node is running.
    fn is_running(&self) -> anyhow::Result<bool> {
        let mut node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = node.as_mut() else { return Ok(false) };
        Ok(child.try_wait()?.is_none())
    }

    /// Whether it accepts connections.
    pub(crate) async fn accepts_connections(&self) -> bool {
        let url = self.url();
        let connecting = Connection::connect(&url, ConnectionProperties::default());
        match tokio::time::timeout(Duration::from_secs(5), connecting).await {
            Ok(Ok(connection)) => connection.close(200, "available".into()).await.is_ok(),
            _ => false,
        }
    }

    /// Waits until the broker accepts connections.
    pub(crate) async fn wait_until_available(&self) -> anyhow::Result<Duration> {
        wait_until("RabbitMQ accepts connections", START_TIMEOUT, async || {
            anyhow::Ok(self.accepts_connections().await)
        })
        .await
    }

    /// Sends SIGKILL. Queues that were declared within the last two seconds may be lost.
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        let mut node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = node.take() {
            match kill_process_group(Pid::from_child(&child), Signal::KILL) {
                // It has ended, and no process of its group is left.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
            child.wait()?;
        }
        Ok(())
    }

    /// Calls `rabbitmqctl` and returns its output.
    pub(crate) async fn rabbitmqctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = tokio::process::Command::from(self.command("rabbitmqctl"))
            .arg("--quiet")
            .args(arguments)
            .kill_on_drop(true)
            .output()
            .await?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rabbitmqctl {}: {stdout}{stderr}", arguments.join(" "));
        Ok(stdout)
    }

    /// The number of unacknowledged messages in the command queues of a namespace.
    pub(crate) async fn unacknowledged_messages(&self, namespace: &str) -> anyhow::Result<u64> {
        let listed = self.rabbitmqctl(&["list_queues", "name", "messages_unacknowledged"]).await?;
        let in_namespace = listed.lines().filter_map(|line| line.strip_prefix(namespace)?.split_once('\t'));
        let in_command_queues = in_namespace.filter(|(queue, _)| matches!(*queue, ".orders" | ".stock"));
        Ok(in_command_queues.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum())
    }

    /// One of the package's scripts, for this node.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        for variable in control_variables() {
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
