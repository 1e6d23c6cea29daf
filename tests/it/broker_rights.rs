//! The roles work with the documented rights on the broker, and these rights allow nothing else.

use std::process::Command as Process;

use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, BasicRejectOptions, ConfirmSelectOptions},
};
use url::Url;

use crate::harness::{
    DRAINS_WITHIN, Running, TestSystem, allocate, amqp_url, create_batch, properties, skip, wait_for,
    wait_until,
};

/// The documented rights: user, configure, write, read.
const RIGHTS: [(&str, &str, &str, &str); 6] = [
    ("worker", "^$", "^$", r"^NS\.(orders|stock)$"),
    ("relay", "^$", r"^NS\.(events|retries)$", "^$"),
    ("archive", "^$", "^$", r"^NS\.(orders|stock|notifications)\.dlq$"),
    ("notifier", "^$", "^$", r"^NS\.notifications$"),
    ("api", "^$", "^$", "^$"),
    ("sender", "^$", r"^NS\.commands$", "^$"),
];

/// Users of the shared broker, whose passwords are their names. Dropping them removes them.
struct BrokerUsers {
    namespace: String,
}

impl BrokerUsers {
    /// Creates the documented users; `None`, with a note, if this machine cannot administrate the broker.
    fn create(system: &TestSystem) -> Option<Self> {
        let namespace = system.namespace.clone();
        let escaped = namespace.replace('.', r"\\.");
        let users = RIGHTS.map(|(user, configure, write, read)| {
            let pattern = |text: &str| text.replace('\\', r"\\").replace("NS", &escaped);
            let (write, read) = (pattern(write), pattern(read));
            format!(r#"{{<<"{namespace}.{user}">>, <<"{configure}">>, <<"{write}">>, <<"{read}">>}}"#)
        });
        let created = evaluate(&format!(
            r#"lists:foreach(fun({{U, C, W, R}}) ->
                   rabbit_auth_backend_internal:add_user(U, U, <<"test">>),
                   rabbit_auth_backend_internal:set_permissions(U, <<"/">>, C, W, R, <<"test">>) end, [{}]),
               rabbit_auth_backend_internal:set_topic_permissions(<<"{namespace}.sender">>, <<"/">>,
                   <<"{namespace}.commands">>, <<"^(allocate|deallocate)$">>, <<"^$">>, <<"test">>)."#,
            users.join(", ")
        ));
        created.then_some(Self { namespace })
    }

    fn url(&self, user: &str) -> String {
        let mut url = Url::parse(&amqp_url()).unwrap();
        let name = format!("{}.{user}", self.namespace);
        url.set_username(&name).unwrap();
        url.set_password(Some(&name)).unwrap();
        url.into()
    }

    fn start(&self, system: &TestSystem, role: &str) -> Running {
        system.start(&["run", "--only", role], &[("AMQP_URL", &self.url(role))])
    }

    /// Publishes with mandatory routing and returns the broker's answer.
    async fn publish(
        &self,
        user: &str,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
    ) -> Result<Confirmation, lapin::Error> {
        let body = br#"{"ref": "b-forged", "sku": "LAMP", "qty": 5, "orderid": "o-forged"}"#;
        let connection = Connection::connect(&self.url(user), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        channel.basic_publish(exchange.into(), key.into(), mandatory, body, properties).await?.await
    }

    async fn assert_refused(&self, user: &str, exchange: &str, key: &str) {
        let published = self.publish(user, exchange, key, properties("allocate", "forged")).await;
        let error = published.expect_err("the broker refuses").to_string();
        assert!(error.contains("ACCESS_REFUSED"), "{user} publishes to {exchange:?} with {key}: {error}");
    }
}

impl Drop for BrokerUsers {
    fn drop(&mut self) {
        let users = RIGHTS.map(|(user, ..)| format!(r#"<<"{}.{user}">>"#, self.namespace));
        let users = users.join(", ");
        evaluate(&format!(r#"[rabbit_auth_backend_internal:delete_user(U, <<"test">>) || U <- [{users}]]."#));
    }
}

/// Whether the broker evaluated an Erlang expression.
fn evaluate(expression: &str) -> bool {
    let output = Process::new("rabbitmqctl").args(["eval", expression]).output();
    let evaluated = output.as_ref().is_ok_and(|output| output.status.success());
    if !evaluated {
        skip(&format!("rabbitmqctl cannot create users on the broker: {output:?}"));
    }
    evaluated
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_works_with_its_documented_rights() {
    let system = TestSystem::new("every_role_works_with_its_documented_rights").await;
    let Some(users) = BrokerUsers::create(&system) else { return };
    system.expect_dead(1);
    // Rejected before anything runs, it is in the dead-letter queue.
    let rejected = allocate("o-rejected", "LAMP", 1);
    system.sender.send(&rejected).await;
    let orders = system.named("orders");
    let taken = system.channel().basic_get(orders.into(), BasicGetOptions::default()).await.unwrap().unwrap();
    taken.reject(BasicRejectOptions { requeue: false }).await.unwrap();

    let roles: Vec<_> =
        ["worker", "relay", "archive", "notifier"].map(|role| users.start(&system, role)).into();
    let (api, client) = system.api("api", &[("AMQP_URL", &users.url("api"))]).await;
    // It fails first, and its retry goes through the exchange for retries.
    let early = allocate("o-early", "LAMP", 1);
    system.sender.send(&early).await;
    let retrying =
        async || system.count("select count(*) from failed_messages where status = 'retrying'").await;
    wait_for("the command fails", DRAINS_WITHIN, &1, retrying).await;
    system.sender.send(&create_batch("b-1", "LAMP", 1)).await;
    let resolved =
        async || system.count("select count(*) from failed_messages where status = 'resolved'").await;
    wait_for("the retry is handled", DRAINS_WITHIN, &1, resolved).await;
    system.sender.send(&allocate("o-late", "LAMP", 5)).await;
    let recorded = async || system.count("select count(*) from failed_messages where status = 'dead'").await;
    wait_for("the dead letter is recorded", DRAINS_WITHIN, &1, recorded).await;
    system.events_of(2).await;
    wait_until("the notification is sent", DRAINS_WITHIN, async || roles[3].log().contains("Out of stock"))
        .await;
    assert_eq!(client.get("/health/ready").await.status, 200);

    users.assert_refused("relay", "", &system.named("orders")).await;
    users.assert_refused("relay", &system.named("commands"), "allocate").await;
    users.assert_refused("sender", &system.named("retries"), &system.named("orders")).await;
    users.assert_refused("sender", &system.named("dead-letters"), &system.named("orders.dlq")).await;
    users.assert_refused("worker", &system.named("commands"), "allocate").await;
    drop(users);
    system.close_after(roles.into_iter().chain([api])).await;
}

/// The routing key decides who may send a command; the type of the message alone decides nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_with_rights_to_some_routing_keys_has_no_other_type_handled() {
    let system = TestSystem::new("a_sender_with_rights_to_some_routing_keys_has_no_other_type_handled").await;
    let Some(users) = BrokerUsers::create(&system) else { return };
    system.expect_dead(3);
    let worker = system.worker();
    let commands = system.named("commands");
    for (number, kind) in ["create_batch", "change_batch_quantity", "out_of_stock"].into_iter().enumerate() {
        users.assert_refused("sender", &commands, kind).await;
        let forged = properties(kind, &format!("forged-{number}"));
        let published = users.publish("sender", &commands, "allocate", forged).await;
        assert_eq!(published.unwrap(), Confirmation::Ack(None), "the routing key is allowed");
    }
    let forged = properties("allocate", "forged-user").with_user_id("guest".into());
    let refused = users.publish("sender", &commands, "allocate", forged).await.unwrap_err().to_string();
    assert!(refused.contains("PRECONDITION_FAILED"), "the user id is not that of the sender: {refused}");
    let dead = async || {
        system
            .count(
                "select count(*) from failed_messages where status = 'dead' and reason = 'unknown_command'",
            )
            .await
    };
    wait_for("each is dead", DRAINS_WITHIN, &3, dead).await;
    assert_eq!(system.count("select count(*) from batches").await, 0);
    drop(users);
    system.close_after([worker]).await;
}
