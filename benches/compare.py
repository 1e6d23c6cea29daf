#!/usr/bin/env python3
"""Compares the throughput of programs, or of settings, run against run.

    benches/compare.py [--commands 60000] [--rounds 8] NAME=PROGRAM[,VARIABLE=VALUE...] ...

Every round runs all variants, in turn forwards and backwards. The ratios are to the first variant, within a round.
A variable BEFORE is a shell command that is executed before the measurement; $DATABASE in it is the database.
Needs psql, and rabbitmqctl on this machine with the right to delete queues.
PGHOST and PGPORT name the server; its user is postgres.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time

SKUS = 64
# The rest may wait for a lock that a measurement holds.
END = 0.97
HOST, PORT = os.environ.get("PGHOST", "127.0.0.1"), os.environ.get("PGPORT", "5432")
TICKS = os.sysconf("SC_CLK_TCK")


def sql(database, statement):
    command = ["psql", "-h", HOST, "-p", PORT, "-U", "postgres", "-qAt", database, "-c", statement]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def commands(directory, count):
    stock, lines = os.path.join(directory, "stock"), os.path.join(directory, "lines")
    with open(stock, "w") as file:
        for n in range(SKUS):
            body = {"ref": f"b{n}", "sku": f"S{n}", "qty": 10**7, "eta": None}
            print(json.dumps({"type": "create_batch", "message_id": f"b{n}", "body": body}), file=file)
    with open(lines, "w") as file:
        for n in range(count):
            body = {"orderid": f"o{n}", "sku": f"S{n % SKUS}", "qty": 1}
            print(json.dumps({"type": "allocate", "message_id": f"m{n}", "body": body}), file=file)
    return stock, lines


def measure(program, variables, count, files, name):
    """Commands per second and CPU seconds of the program per 1,000 commands, from 10 % of the work to its end.

    A command counts when its event is published: a relay that falls behind does not make the program faster.
    """
    url = f"postgres://postgres@{HOST}:{PORT}/{name}"
    environment = dict(os.environ, DATABASE_URL=url, ALLOCATION__NAMESPACE=name, DATABASE=name, **variables)
    call = lambda *arguments: subprocess.run([program, *arguments], env=environment, check=True, capture_output=True)
    start = lambda: subprocess.Popen([program, "run", "--only", "worker,relay"], env=environment, stderr=None if os.environ.get("SHOW_LOG") else subprocess.DEVNULL)

    def stop(process):
        process.send_signal(signal.SIGTERM)
        process.wait()

    call("migrate")
    call("topology")
    call("send", "--file", files[0])
    worker = start()
    while sql(name, "select count(*) from batches") != str(SKUS):
        time.sleep(0.1)
    stop(worker)
    if "BEFORE" in variables:
        subprocess.run(variables["BEFORE"], shell=True, check=True, env=environment)
    call("send", "--file", files[1])
    sql(name, "vacuum analyze")
    sql("postgres", "checkpoint")
    worker, first = start(), None
    while True:
        done = int(sql(name, "select coalesce(sum(event_sequence), 0) from products"))
        published = done - int(sql(name, "select count(*) from outbox"))
        now = (time.monotonic(), published, cpu_seconds(worker.pid))
        if first is None and published >= count * 0.1:
            first = now
        if published >= count * END:
            break
        time.sleep(0.25)  # Counting costs more and more while a transaction keeps deleted rows.
    finished = now[1] - first[1]
    stop(worker)
    subprocess.run(["dropdb", "-f", "-h", HOST, "-p", PORT, "-U", "postgres", name], check=True)
    delete = '[rabbit_amqqueue:delete(Q, false, false, <<>>) || Q <- rabbit_amqqueue:list(), ' \
        f'begin {{resource, _, _, N}} = element(2, Q), re:run(N, "^{name}[.]") =/= nomatch end], ok.'
    subprocess.run(["rabbitmqctl", "-q", "eval", delete], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60)
    return finished / (now[0] - first[0]), (now[2] - first[2]) / finished * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("variants", nargs="+", metavar="NAME=PROGRAM[,VARIABLE=VALUE...]")
    arguments = parser.parse_args()
    variants = []
    for variant in arguments.variants:
        name, rest = variant.split("=", 1)
        program, *variables = rest.split(",")
        variants.append((name, program, dict(variable.split("=", 1) for variable in variables)))
    results = {name: [] for name, _, _ in variants}
    with tempfile.TemporaryDirectory() as directory:
        files = commands(directory, arguments.commands)
        for number in range(arguments.rounds):
            for name, program, variables in variants[:: 1 if number % 2 == 0 else -1]:
                system = f"compare_{os.getpid()}_{number}_{len(results[name])}_{variants.index((name, program, variables))}"
                rate, cpu = measure(program, variables, arguments.commands, files, system)
                results[name].append((rate, cpu))
                print(f"round {number + 1}  {name:12} {rate:7.0f} commands/s  {cpu:.4f} s CPU per 1,000", flush=True)
    base = results[variants[0][0]]
    for name, values in results.items():
        rates = [rate for rate, _ in values]
        ratios = [rate / first for rate, (first, _) in zip(rates, base)]
        cpus = [cpu / first for (_, cpu), (_, first) in zip(values, base)]
        print(
            f"{name:12} median {statistics.median(rates):7.0f} commands/s, ratio {statistics.median(ratios):.3f}"
            f" ({min(ratios):.3f} to {max(ratios):.3f}); ratio of CPU {statistics.median(cpus):.3f}"
        )


main()
