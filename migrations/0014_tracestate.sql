-- The second header of a trace context, which is passed on together with the first.
alter table outbox add column tracestate text;
