-- Failed messages are counted by queue and status for the metrics of the leading relay, every few seconds.
create index failed_messages_count on failed_messages (queue, status) where status <> 'resolved';
