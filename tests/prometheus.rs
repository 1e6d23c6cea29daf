//! A Prometheus of a test's own with the rules of `ops/alerts.yaml`, for the integration tests and the chaos tests.
//!
//! Outages of tests last seconds: a minute of the rules is a second.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use url::form_urlencoded;

/// How many times shorter the durations of the rules are.
const FACTOR: u32 = 60;
/// How often processes are scraped and rules are evaluated. Processes should measure what waits as often.
pub(crate) const INTERVAL: &str = "250ms";
/// The deadline of a start on a busy machine.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// How often an answer is awaited.
const POLL: Duration = Duration::from_millis(50);

/// Whether `prometheus` and `promtool` are installed.
pub(crate) fn is_installed() -> bool {
    ["prometheus", "promtool"].iter().all(|program| {
        let mut version = Command::new(program);
        let started = version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        started.is_ok_and(|status| status.success())
    })
}

/// A running server. Dropping it stops it.
pub(crate) struct Prometheus {
    folder: TempDir,
    address: SocketAddr,
    server: Child,
}

impl Prometheus {
    /// Starts a server that scrapes these addresses and evaluates the rules.
    pub(crate) async fn start(targets: &[SocketAddr]) -> Self {
        let folder = TempDir::with_prefix("prometheus-").expect("there is room for files");
        // JSON is a subset of YAML.
        let write = |name: &str, content: &Value| {
            fs::write(folder.path().join(name), content.to_string()).expect("there is room for files");
        };
        write("rules.yaml", &scaled_rules());
        let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
        let configuration = json!({
            "global": {
                "scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL
            },
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "allocation", "static_configs": [{"targets": targets}]}]
        });
        write("prometheus.yaml", &configuration);
        let free = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr());
        let address = free.expect("there is a free port");
        let mut prometheus = Self { server: spawn(folder.path(), address), folder, address };
        prometheus.is_ready().await;
        prometheus
    }

    async fn is_ready(&mut self) {
        let begin = Instant::now();
        while !get(self.address, "/-/ready").await.is_ok_and(|(status, _)| status == 200) {
            let ended = self.server.try_wait().expect("a child can be waited for");
            let waits = ended.is_none() && begin.elapsed() < STARTS_WITHIN;
            assert!(waits, "Prometheus is not ready: {ended:?}\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// The series of an instant query: labels and value.
    pub(crate) async fn query(&self, expression: &str) -> Vec<(Value, String)> {
        let encoded: String = form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let response = self.json(&format!("/api/v1/query?query={encoded}")).await;
        assert_eq!(response["status"], "success", "{expression}: {response}");
        let series = response["data"]["result"].as_array().expect("the result of a query is a list");
        let value = |series: &Value| series["value"][1].as_str().expect("a value is a text").to_owned();
        series.iter().map(|series| (series["metric"].clone(), value(series))).collect()
    }

    /// The alerts in a state, `pending` or `firing`: the name and the labels that tell apart those of one name.
    pub(crate) async fn alerts(&self, state: &str) -> BTreeSet<String> {
        let response = self.json("/api/v1/alerts").await;
        let alerts = response["data"]["alerts"].as_array().expect("there is a list of alerts");
        let alerts = alerts.iter().filter(|alert| alert["state"] == state);
        alerts.map(|alert| described(&alert["labels"])).collect()
    }

    /// The log of the server so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    async fn json(&self, path: &str) -> Value {
        let (_, body) = get(self.address, path).await.expect("Prometheus answers");
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn spawn(folder: &Path, address: SocketAddr) -> Child {
    let log = File::create(folder.join("log")).expect("there is room for files");
    let mut server = Command::new("prometheus");
    server.arg(format!("--config.file={}", folder.join("prometheus.yaml").display()));
    server.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
    server.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
    let server = server.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    server.spawn().expect("Prometheus is installed")
}

/// The status and the body. The body of an answer to HTTP/1.0 ends with the connection.
async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status =
        String::from_utf8_lossy(&response[..end]).split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, response.split_off(end + 4)))
}

/// For example `NoConsumers orders dead_letter`: the values in the order of the names of their labels.
fn described(labels: &Value) -> String {
    let labels = labels.as_object().expect("labels are an object");
    let name = labels["alertname"].as_str().expect("an alert has a name");
    let hidden = ["alertname", "severity", "instance"];
    let values = labels.iter().filter(|(label, _)| !hidden.contains(&label.as_str()));
    let values = values.map(|(_, value)| value.as_str().unwrap_or_default());
    [name.trim_start_matches("Allocation")].into_iter().chain(values).collect::<Vec<_>>().join(" ")
}

/// The rules of `ops/alerts.yaml` with shorter durations and lower limits of seconds; nothing else differs.
fn scaled_rules() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/alerts.yaml");
    let mut file: Value = serde_saphyr::from_str(&fs::read_to_string(path).expect("the file exists"))
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    let groups = file["groups"].as_array_mut().expect("the file has groups");
    for rule in groups.iter_mut().flat_map(|group| group["rules"].as_array_mut().expect("it has rules")) {
        rule["expr"] = json!(scaled(rule["expr"].as_str().expect("a rule has an expression")));
        if let Some(duration) = rule["for"].as_str() {
            rule["for"] = json!(scaled(duration));
        }
    }
    file
}

/// Ranges and offsets, and limits of metrics in seconds.
fn scaled(expression: &str) -> String {
    let in_seconds = ["_seconds)", "_seconds <"].iter().any(|compared| expression.contains(compared));
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let mut scaled = String::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c| word(c) != word(first)).unwrap_or(rest.len());
        let (part, after) = rest.split_at(length);
        scaled.push_str(&scaled_word(part, in_seconds));
        rest = after;
    }
    scaled
}

fn scaled_word(word: &str, in_seconds: bool) -> String {
    if let Some(seconds) = word.parse::<u32>().ok().filter(|seconds| in_seconds && *seconds >= FACTOR) {
        return (seconds / FACTOR).to_string();
    }
    let has_unit = word.ends_with(|c: char| c.is_ascii_lowercase());
    let duration = humantime::parse_duration(word).ok().filter(|_| has_unit);
    let shorter = |duration: Duration| format!("{}ms", (duration / FACTOR).as_millis());
    duration.map_or_else(|| word.to_owned(), shorter)
}

#[test]
fn durations_and_limits_of_seconds_are_scaled() {
    let unchanged = "sum by (queue) (a_total) > 0.05 * 10000 or vector(0)";
    assert_eq!(scaled(unchanged), unchanged);
    assert_eq!(scaled("rate(a_total[3m]) > 120"), "rate(a_total[3000ms]) > 120");
    assert_eq!(scaled("a unless a offset 15m"), "a unless a offset 15000ms");
    assert_eq!(scaled("max(a_oldest_seconds) > 120"), "max(a_oldest_seconds) > 2");
    assert_eq!(scaled("time() - a_seconds < 900"), "time() - a_seconds < 15");
    assert_eq!(scaled("1h"), "60000ms");
}
