//! `docker-compose.yml`: who logs in as whom, limits, and no default passwords.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

fn file(name: &str) -> String {
    fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The lines below each key with this indentation.
fn blocks(compose: &str, indent: usize) -> BTreeMap<String, Vec<String>> {
    let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in compose.lines().filter(|line| !line.trim_start().starts_with('#')) {
        if !line.is_empty() && line.len() - line.trim_start().len() == indent {
            line.trim().split(':').next().unwrap().clone_into(&mut name);
        }
        blocks.entry(name.clone()).or_default().push(line.trim().to_owned());
    }
    blocks
}

/// Every service, with the lines of what it merges.
fn services() -> BTreeMap<String, String> {
    let compose = file("docker-compose.yml");
    let (_, services) = compose.split_once("\nservices:\n").unwrap();
    let (services, _) = services.split_once("\nvolumes:\n").unwrap();
    let all = blocks(&compose, 0);
    let merged = |lines: &[String]| {
        let mut lines = lines.to_vec();
        for (anchor, name) in [("*role", "x-role"), ("*program", "x-program"), ("*limits", "x-limits")] {
            if lines.contains(&format!("<<: {anchor}")) {
                lines.extend(all[name].clone());
            }
        }
        lines.join("\n")
    };
    let services = blocks(services, 2).into_iter().filter(|(name, _)| !name.is_empty());
    services.map(|(name, lines)| (name, merged(&lines))).collect()
}

#[test]
fn every_service_has_limits() {
    let services = services();
    assert_eq!(services.len(), 13, "{:?}", services.keys());
    for (name, lines) in services {
        for limit in ["mem_limit: ", "pids_limit: ", "no-new-privileges:true", "max-size: ", "max-file: "] {
            assert!(lines.contains(limit), "{name} has no {limit}");
        }
    }
}

/// The services as YAML, with their own keys only.
fn parsed_services() -> serde_json::Map<String, Value> {
    let compose: Value = serde_saphyr::from_str(&file("docker-compose.yml")).unwrap();
    compose["services"].as_object().unwrap().clone()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn ports_are_published_on_this_machine_only() {
    let services = parsed_services();
    let ports: Vec<_> = services.values().flat_map(|service| texts(&service["ports"])).collect();
    assert!(ports.len() > 6, "{ports:?}");
    for port in ports {
        assert!(port.starts_with("127.0.0.1:"), "{port}");
    }
}

#[test]
fn mounted_files_exist_and_images_have_a_version() {
    for (name, service) in parsed_services() {
        for mount in texts(&service["volumes"]) {
            let source = mount.split(':').next().unwrap();
            let file = source.strip_prefix("./");
            let exists = file.is_none_or(|file| Path::new(env!("CARGO_MANIFEST_DIR")).join(file).is_file());
            assert!(exists, "{name} mounts {mount}");
            assert!(file.is_none() || mount.ends_with(":ro"), "{name} may write to {mount}");
        }
        if let Some((_, tag)) = service["image"].as_str().and_then(|image| image.split_once(':')) {
            assert!(tag.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()), "{name}: {tag}");
        }
    }
}

#[test]
fn observation_is_a_profile_whose_services_are_checked() {
    let services = parsed_services();
    let observing: Vec<_> =
        services.iter().filter(|(_, service)| texts(&service["profiles"]) == ["observe"]).collect();
    let names: Vec<_> = observing.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["grafana", "prometheus"]);
    for (name, service) in observing {
        assert!(!texts(&service["healthcheck"]["test"]).is_empty(), "{name} has no health check");
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
    }
    // What Prometheus scrapes is what the services listen on.
    let listens = file("docker-compose.yml").contains("ALLOCATION__METRICS__LISTEN: 0.0.0.0:9464\n");
    let scraped: Value = serde_saphyr::from_str(&file("ops/prometheus.yml")).unwrap();
    let scraped = &scraped["scrape_configs"][0]["dns_sd_configs"][0];
    assert!(listens && scraped["port"] == 9464, "{scraped}");
    assert_eq!(texts(&scraped["names"]), ["worker", "relay", "archive", "notifier", "api"]);
}

#[test]
fn no_password_has_a_default() {
    let compose = file("docker-compose.yml");
    let variables: Vec<_> = compose.split("${").skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
    assert!(variables.len() > 8);
    for variable in variables {
        assert!(variable.ends_with(":?run config/secrets.sh"), "{variable}");
        let name = variable.split(':').next().unwrap();
        assert!(file("config/secrets.sh").contains(name), "config/secrets.sh does not create {name}");
    }
    for name in [".gitignore", ".dockerignore"] {
        assert!(file(name).lines().any(|line| line.trim_start_matches('/') == ".env*"), "{name}");
    }
}

#[test]
fn services_log_in_with_the_rights_that_they_need() {
    for (name, lines) in services() {
        // The first of two equal keys is the service's own.
        let login = |key: &str| {
            let value = lines.lines().find_map(|line| line.strip_prefix(&format!("{key}: ")))?;
            value.split_once("://")?.1.split(':').next().map(ToOwned::to_owned)
        };
        let (database, broker) = match name.as_str() {
            "migrate" => (Some("allocation_migrate"), None),
            "topology" => (None, Some("allocation_topology")),
            "worker" | "relay" | "archive" | "notifier" | "api" => (Some("allocation"), Some("allocation")),
            _ => (None, None),
        };
        if let Some(database) = database {
            assert_eq!(login("DATABASE_URL").as_deref(), Some(database), "{name}");
        }
        if let Some(broker) = broker {
            assert_eq!(login("AMQP_URL").as_deref(), Some(broker), "{name}");
        }
        if name != "postgres" {
            assert!(!lines.contains("POSTGRES_ADMIN_PASSWORD"), "{name} knows the administrator's password");
        }
    }
    for login in ["allocation_migrate", "allocation"] {
        let created = format!("create role {login} login password");
        assert!(file("deploy/compose/logins.sql").contains(&created), "{login}");
    }
    for user in ["allocation_topology", "allocation"] {
        let created = format!("\"name\": \"{user}\", \"password_hash\"");
        assert!(file("deploy/compose/rabbitmq.sh").contains(&created), "{user}");
    }
}
