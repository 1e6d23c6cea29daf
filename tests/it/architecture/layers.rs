//! The layers: what each may import, and which technology it may use.

use std::fs;

use super::{
    imports::{Target, imports, literals},
    source::{Crate, SourceFile, project},
};

struct Layer {
    /// The module that contains the layer.
    name: &'static str,
    /// The layers that it may import, in addition to itself.
    may_import: &'static [&'static str],
    crates: Crates,
    /// Beginnings of SQL statements that it must not contain.
    never_sql: &'static [&'static str],
}

/// The dependencies that a layer may use, in addition to the standard library.
enum Crates {
    Only(&'static [&'static str]),
    Except(&'static [&'static str]),
    /// Everything that is no technology, and of those only these.
    Technologies(&'static [&'static str]),
}

const ANY_SQL: &[&str] = &["select ", "insert into ", "update ", "delete from ", "with "];
const WRITES: &[&str] = &["insert into ", "update ", "delete from "];
const SERVERS: &[&str] = &[
    "sqlx",
    "lapin",
    "lettre",
    "axum",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "opentelemetry_proto",
    "prometheus_client",
];

/// The imports point down: `main` to `cli`, `bootstrap`, `entrypoints`, `service`, `ports` and `domain`; `adapters` and `views`
/// are beside `service`. A file belongs to the layer with the longest matching name.
const LAYERS: &[Layer] = &[
    Layer {
        name: "domain",
        may_import: &[],
        crates: Crates::Only(&["serde", "time", "uuid", "thiserror"]),
        never_sql: ANY_SQL,
    },
    Layer { name: "ports", may_import: &["domain"], crates: Crates::Except(SERVERS), never_sql: ANY_SQL },
    Layer {
        name: "service",
        may_import: &["ports", "domain", "faults"],
        crates: Crates::Except(SERVERS),
        never_sql: ANY_SQL,
    },
    Layer { name: "adapters", may_import: &[], crates: Crates::Only(&[]), never_sql: ANY_SQL },
    Layer {
        name: "adapters::postgres",
        may_import: &["ports", "domain", "pg"],
        crates: Crates::Technologies(&["sqlx"]),
        never_sql: &[],
    },
    Layer {
        name: "adapters::rabbitmq",
        may_import: &["ports", "domain", "address"],
        crates: Crates::Technologies(&["lapin"]),
        never_sql: ANY_SQL,
    },
    Layer {
        name: "adapters::mail",
        may_import: &["ports", "domain", "address"],
        crates: Crates::Technologies(&["lettre"]),
        never_sql: ANY_SQL,
    },
    Layer {
        name: "adapters::prometheus",
        may_import: &["ports", "domain"],
        crates: Crates::Only(&["prometheus_client"]),
        never_sql: ANY_SQL,
    },
    Layer {
        name: "adapters::csv",
        may_import: &["ports", "domain"],
        crates: Crates::Technologies(&["csv"]),
        never_sql: ANY_SQL,
    },
    Layer {
        name: "adapters::memory",
        may_import: &["ports", "domain"],
        crates: Crates::Except(SERVERS),
        never_sql: ANY_SQL,
    },
    Layer {
        name: "adapters::otel",
        may_import: &["ports", "domain"],
        crates: Crates::Technologies(&["hyper", "hyper_rustls", "hyper_util", "opentelemetry_proto"]),
        never_sql: ANY_SQL,
    },
    Layer {
        name: "views",
        may_import: &["ports", "domain", "pg"],
        crates: Crates::Technologies(&["sqlx"]),
        never_sql: WRITES,
    },
    Layer {
        name: "entrypoints",
        may_import: &["service", "views", "ports", "domain", "config"],
        crates: Crates::Technologies(&["axum", "hyper", "hyper_util"]),
        never_sql: ANY_SQL,
    },
    Layer {
        name: "bootstrap",
        may_import: &[
            "entrypoints",
            "service",
            "adapters",
            "views",
            "ports",
            "domain",
            "pg",
            "config",
            "faults",
        ],
        crates: Crates::Technologies(&["sqlx", "csv"]),
        never_sql: ANY_SQL,
    },
    Layer {
        name: "cli",
        may_import: &["bootstrap", "service", "views", "ports", "domain", "config", "telemetry", "reexec"],
        crates: Crates::Except(SERVERS),
        never_sql: ANY_SQL,
    },
    Layer { name: "main", may_import: &["cli"], crates: Crates::Only(&["clap"]), never_sql: ANY_SQL },
    Layer {
        name: "pg",
        may_import: &["ports", "address"],
        crates: Crates::Technologies(&["sqlx"]),
        never_sql: WRITES,
    },
    Layer {
        name: "address",
        may_import: &[],
        crates: Crates::Only(&["percent_encoding", "secrecy", "thiserror"]),
        never_sql: ANY_SQL,
    },
    Layer { name: "config", may_import: &["address"], crates: Crates::Except(SERVERS), never_sql: ANY_SQL },
    Layer {
        name: "telemetry",
        may_import: &["config", "ports"],
        crates: Crates::Except(SERVERS),
        never_sql: ANY_SQL,
    },
    Layer { name: "reexec", may_import: &[], crates: Crates::Only(&[]), never_sql: ANY_SQL },
    Layer {
        name: "faults",
        may_import: &["ports", "domain"],
        crates: Crates::Except(SERVERS),
        never_sql: ANY_SQL,
    },
    Layer {
        name: "fuzzing",
        may_import: &[
            "bootstrap",
            "entrypoints",
            "adapters",
            "views",
            "service",
            "ports",
            "domain",
            "config",
            "address",
        ],
        crates: Crates::Except(&["lapin", "lettre", "prometheus_client"]),
        never_sql: ANY_SQL,
    },
];

/// Injected faults: only the composition root and the hook between a handler and its reactions name them.
const FAULTS: &str = "faults";
const NAMES_FAULTS: &[&str] = &["src/bootstrap/app.rs", "src/service/dispatch.rs"];

/// The layer with the longest name that a path begins with.
fn layer_of(path: &[String]) -> Option<&'static Layer> {
    let path = path.join("::");
    let begins = |name: &str| path == name || path.starts_with(&format!("{name}::"));
    LAYERS.iter().filter(|layer| begins(layer.name)).max_by_key(|layer| layer.name.len())
}

fn violations(krate: &Crate) -> Vec<String> {
    let dependencies = dependencies();
    let mut found = Vec::new();
    for file in &krate.files {
        if file.module.is_empty() {
            continue;
        }
        let Some(layer) = layer_of(&file.module) else {
            found.push(format!("{} is in no layer", file.path));
            continue;
        };
        for import in imports(krate, file) {
            let wrong = match &import.target {
                Target::Internal(path) => forbidden_layer(layer, path),
                Target::External(path) => forbidden_crate(layer, &path[0], &dependencies),
            };
            if let Some(wrong) = wrong {
                found.push(format!("{}:{} {} must not import {wrong}", file.path, import.line, layer.name));
            }
        }
        found.extend(forbidden_sql(file, layer));
    }
    found
}

fn forbidden_layer(layer: &Layer, path: &[String]) -> Option<String> {
    if path.first().is_none_or(|first| first == "*" || first == FAULTS) {
        return None;
    }
    let is_in = |target: &str, name: &str| target == name || target.starts_with(&format!("{name}::"));
    let is_allowed = layer_of(path).is_some_and(|target| {
        target.name == layer.name || layer.may_import.iter().any(|name| is_in(target.name, name))
    });
    (!is_allowed).then(|| format!("crate::{}", path.join("::")))
}

fn forbidden_crate(layer: &Layer, name: &str, dependencies: &[String]) -> Option<String> {
    let forbidden = match layer.crates {
        Crates::Only(allowed) => dependencies.iter().any(|known| known == name) && !allowed.contains(&name),
        Crates::Except(forbidden) => forbidden.contains(&name),
        Crates::Technologies(allowed) => {
            (SERVERS.contains(&name) || name == "csv") && !allowed.contains(&name)
        }
    };
    forbidden.then(|| name.to_owned())
}

fn forbidden_sql(file: &SourceFile, layer: &Layer) -> Vec<String> {
    let is_sql = |text: &str| {
        let text = text.trim_start_matches(|character: char| !character.is_alphabetic()).to_lowercase();
        layer.never_sql.iter().any(|begin| text.starts_with(begin) && text.split_whitespace().count() > 2)
    };
    let sql = literals(file).into_iter().filter(|(_, text)| is_sql(text));
    sql.map(|(line, _)| format!("{}:{line} {} must not contain this SQL", file.path, layer.name)).collect()
}

/// The names of the dependencies, as code writes them.
fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(project().join("Cargo.toml")).unwrap();
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").unwrap();
    let (dependencies, _) = dependencies.split_once("\n[").unwrap();
    let names = dependencies.lines().filter_map(|line| line.split_once(" = "));
    names.map(|(name, _)| name.replace('-', "_")).collect()
}

fn names_of_faults(krate: &Crate) -> Vec<String> {
    let is_fault = |target: &Target| matches!(target, Target::Internal(path) if path.first().is_some_and(|first| first == FAULTS));
    let outside = krate.files.iter().filter(|file| {
        let inside = file.module.is_empty() || file.module[0] == FAULTS;
        !inside && !NAMES_FAULTS.contains(&file.path.as_str())
    });
    let named = outside.flat_map(|file| {
        let imports = imports(krate, file).into_iter().filter(|import| is_fault(&import.target));
        imports.map(move |import| format!("{}:{} names injected faults", file.path, import.line))
    });
    let mut named: Vec<_> = named.collect();
    named.dedup();
    named
}

#[test]
fn every_layer_imports_only_what_is_below_it() {
    let found = violations(&Crate::read("src"));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn only_the_composition_root_and_the_dispatch_name_injected_faults() {
    let found = names_of_faults(&Crate::read("src"));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_forbidden_import_is_found_in_every_form() {
    for (path, text, expected) in [
        (
            "src/service/x.rs",
            "use crate::{domain::Sku,\n    adapters::memory::X,\n};",
            ":2 service must not import crate::adapters::memory::X",
        ),
        ("src/service/x.rs", "use super::super::adapters::memory::X;", ":1 service must not"),
        ("src/service/x.rs", "use {crate::{views::{self, Views as V}}};", ":1 service must not"),
        ("src/service/x.rs", "use crate::adapters::*;", ":1 service must not"),
        (
            "src/service/x.rs",
            "fn f() {\n    crate::config::load();\n}",
            ":2 service must not import crate::config::load",
        ),
        ("src/service/x.rs", "fn f() {\n    info!(\"{}\", crate::config::load());\n}", ":2 service must not"),
        ("src/entrypoints/x.rs", "use crate::bootstrap::App;", ":1 entrypoints must not"),
        ("src/entrypoints/x.rs", "use allocation::cli::Cli;", ":1 entrypoints must not"),
        ("src/bootstrap/x.rs", "use crate::cli::Cli;", ":1 bootstrap must not"),
        ("src/domain/x.rs", "use crate::ports::store::Store;", ":1 domain must not"),
        ("src/domain/x.rs", "use tokio::time::Instant;", ":1 domain must not import tokio"),
        ("src/domain/x.rs", "fn f(x: sqlx::PgPool) {}", ":1 domain must not import sqlx"),
        ("src/service/x.rs", "use prometheus_client::registry::Registry;", ":1 service must not"),
        ("src/service/x.rs", "fn f() { lapin::Connection::connect(); }", ":1 service must not import lapin"),
        ("src/adapters/postgres/x.rs", "use crate::adapters::rabbitmq::X;", ":1 adapters::postgres must not"),
        ("src/adapters/memory/x.rs", "use super::super::csv::Row;", ":1 adapters::memory must not"),
        ("src/views/x.rs", "use crate::service::relay::Relay;", ":1 views must not"),
        ("src/views/x.rs", "fn f() { sqlx::query!(\"update x set y = 1\") }", ":1 views must not contain"),
        ("src/cli/x.rs", "const Q: &str = \"select 1 from x\";", ":1 cli must not contain"),
        ("src/other/x.rs", "", " is in no layer"),
    ] {
        let found = violations(&Crate::from_texts(&[("src/lib.rs", ""), (path, text)]));
        assert!(found.first().is_some_and(|found| found.contains(expected)), "{text}: {found:?}");
    }
    for (path, text) in [
        ("src/service/x.rs", "use crate::{domain::Sku, ports::{self, store::Store}};\nuse super::y::Z;"),
        ("src/service/x.rs", "#[cfg(test)]\nmod tests { use crate::adapters::memory::X; }"),
        ("src/bootstrap/x.rs", "use crate::adapters::{csv::{self, Row}, postgres};"),
        ("src/views/x.rs", "fn f() { sqlx::query!(\"select updated from x\") }"),
        ("src/cli/x.rs", "const HELP: &str = \"Update x\";"),
    ] {
        assert_eq!(violations(&Crate::from_texts(&[(path, text)])), [""; 0], "{text}");
    }
}

#[test]
fn a_name_of_injected_faults_is_found() {
    let text =
        "use crate::{ports::store::Store, faults::FaultPlan};\nfn f() { crate::faults::mid_handler(); }";
    let found =
        names_of_faults(&Crate::from_texts(&[("src/service/x.rs", text), ("src/bootstrap/app.rs", text)]));
    assert_eq!(
        found,
        ["src/service/x.rs:1 names injected faults", "src/service/x.rs:2 names injected faults"]
    );
}
