//! Runs a check and reports its size, or the shortest trace to a violation.

use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::{
    config::{Config, Fault},
    display::describe,
    model::Protocol,
};

/// Checks every state of a configuration without a fault.
pub(crate) fn assert_holds(config: Config) {
    let begin = Instant::now();
    let checker = Protocol { config }.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    report(&format!(
        "{}: {} states, {} steps, depth {}, {:.1} s; {:?}",
        config.name,
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        begin.elapsed().as_secs_f64(),
        config.budget,
    ));
    for property in checker.model().properties() {
        let found = checker.discovery(property.name).is_some();
        if found == (property.expectation == Expectation::Sometimes) {
            continue;
        }
        assert!(found, "{}: not reached: {}", config.name, property.name);
        let property = property.name;
        let (actions, _) = shortest(Config { symmetric: false, ..config }, property);
        panic!("{}: violated: {property}\n{}", config.name, trace(&actions.unwrap_or_default()));
    }
}

/// Checks that a fault violates `property`, and prints the shortest trace.
pub(crate) fn assert_finds(config: Config, fault: Fault, property: &'static str) {
    let config = config.with(fault);
    let begin = Instant::now();
    let (actions, states) = shortest(config, property);
    let actions = actions.unwrap_or_else(|| panic!("{fault:?} does not violate: {property}"));
    report(&format!(
        "{} with {fault:?}: violates \"{property}\" in {} steps ({} states, {:.1} s)\n{}",
        config.name,
        actions.len(),
        states,
        begin.elapsed().as_secs_f64(),
        trace(&actions),
    ));
}

/// The shortest trace to a violation, and the number of states that were checked for it. The checker may continue for a
/// while after the first violation and report a longer trace; with a limit of the depth it cannot.
fn shortest(config: Config, property: &'static str) -> (Option<Vec<String>>, usize) {
    let mut states = 0;
    for depth in 1.. {
        let wanted = HasDiscoveries::AnyOf([property].into());
        let builder = Protocol { config }.checker().finish_when(wanted).target_max_depth(depth);
        let checker = builder.spawn_bfs().join();
        if let Some(path) = checker.discovery(property) {
            let steps = path.into_vec().into_iter();
            let steps = steps.filter_map(|(state, action)| Some(describe(&config, &state, action?)));
            return (Some(steps.collect()), states + checker.unique_state_count());
        }
        if checker.unique_state_count() == states {
            break;
        }
        states = checker.unique_state_count();
    }
    (None, states)
}

fn trace(actions: &[String]) -> String {
    let lines = (1..).zip(actions).map(|(step, action)| format!("  {step:>2}. {action}\n"));
    lines.collect()
}

#[expect(clippy::print_stderr, reason = "the size of a check and its trace are the output of these tests")]
fn report(text: &str) {
    eprintln!("{text}");
}
