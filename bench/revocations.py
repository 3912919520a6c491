"""F. The durable queue: what a trigger adds to the removal of workspaces, and how
fast the queue is worked off."""

from endurance import anonymous_kb
from one_call import KEY
from pq import Session
from stats import cpu_clock, median, spread, table, wall_clock

# An outbox as one would write it by hand, with what it takes to deliver from it:
# retries, claims, and an index on what is due.
OUTBOX = """
CREATE TABLE outbox (
    id bigserial PRIMARY KEY,
    workspace_id text NOT NULL,
    state text NOT NULL DEFAULT 'pending',
    requested_at timestamptz NOT NULL DEFAULT now(),
    requested_by text NOT NULL DEFAULT current_user,
    not_after timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    claimed_at timestamptz,
    finished_at timestamptz,
    outcome text,
    status integer,
    message text
) WITH (autovacuum_enabled = off);
CREATE INDEX ON outbox (next_attempt_at) WHERE finished_at IS NULL;

CREATE FUNCTION outbox_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (workspace_id) VALUES (OLD.id);
    RETURN NULL;
END $$;

CREATE FUNCTION outbox_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (workspace_id) SELECT id FROM removed;
    RETURN NULL;
END $$;
"""

ROW = "AFTER DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION "
STATEMENT = ("AFTER DELETE ON {table} REFERENCING OLD TABLE AS removed"
             " FOR EACH STATEMENT EXECUTE FUNCTION ")

# name, trigger, queue that it fills
WAYS = [("no trigger", None, None),
        ("row trigger, hand-written", ROW + "outbox_row()", "outbox"),
        ("row trigger, ours", ROW + "sendkit_revoke_on_delete('id')", "sendkit_revocation"),
        ("statement trigger, hand-written", STATEMENT + "outbox_statement()", "outbox"),
        ("statement trigger, ours", STATEMENT + "sendkit_revoke_on_delete('id')",
         "sendkit_revocation")]
RIVALS = {2: 1, 4: 3}
WANTED = {2: "0.6", 4: "1.0"}

CLEANUP = """
DROP TABLE IF EXISTS workspace_0, workspace_1, workspace_2, workspace_3, workspace_4, outbox;
DROP FUNCTION IF EXISTS outbox_row, outbox_statement;
TRUNCATE sendkit_revocation;
ALTER TABLE sendkit_revocation RESET (autovacuum_enabled);
DROP SERVER IF EXISTS sendkit CASCADE;
"""


# --- what a trigger adds ----------------------------------------------------------

def create(session):
    session.query(CLEANUP)
    session.query(OUTBOX)
    session.query("ALTER TABLE sendkit_revocation SET (autovacuum_enabled = off)")
    for i, (_, trigger, _) in enumerate(WAYS):
        session.query(f"CREATE TABLE workspace_{i} (id text PRIMARY KEY, name text)"
                      " WITH (autovacuum_enabled = off)")
        if trigger:
            session.query("CREATE TRIGGER revoke " + trigger.format(table=f"workspace_{i}"))


def timed(session, sql):
    wall, cpu = wall_clock(), cpu_clock(session.pid)
    session.query(sql)
    return wall_clock() - wall, cpu_clock(session.pid) - cpu


def remove_workspaces(session, way, count):
    """Seconds of (wall, CPU) that the DELETE takes, with its commit."""
    queue = WAYS[way][2]
    session.query(f"TRUNCATE workspace_{way}" + (f", {queue}" if queue else ""))
    session.query(f"INSERT INTO workspace_{way} SELECT md5(i::text), 'workspace ' || i"
                  f" FROM generate_series(1, {count}) AS i")
    sample = timed(session, f"DELETE FROM workspace_{way}")
    if queue:
        queued = session.value(f"SELECT count(*) FROM {queue} WHERE state = 'pending'")
        assert int(queued) == count, f"{queued} of {count} are queued"
    return sample


def ratio_of_medians(ours, theirs):
    """Of medians: what is added is a small difference of noisy times, and the
    ratio of one round says little."""
    return median(ours) / median(theirs)


def removal(context, count, rounds):
    order = list(range(len(WAYS)))
    samples = []
    with Session(jit="off") as session:
        create(session)
        for i in range(rounds + 2):
            turn = {}
            for way in order if i % 2 else reversed(order):
                turn[way] = remove_workspaces(session, way, count)
            samples.append(turn)
    samples = samples[2:]

    def added(way, clock):
        return [turn[way][clock] - turn[0][clock] for turn in samples]
    rows = []
    for way, (name, _, queue) in enumerate(WAYS):
        row = [name, spread([turn[way][0] for turn in samples], 1e3, 1)]
        row += [f"{median(added(way, clock)) * 1e6 / count:.2f}" if queue else ""
                for clock in (0, 1)]
        rival = RIVALS.get(way)
        row += [f"{ratio_of_medians(added(way, clock), added(rival, clock)):.2f}" if rival else ""
                for clock in (0, 1)]
        rows.append(row)
        context.log(f"removal: {row}")
        if rival:
            context.summarize(f"DELETE of {count:,} workspaces: what our {name.split(',')[0]} adds,"
                              " to what a hand-written one adds", row[4], f"≤ {WANTED[way]}")
    return table(["", "ms in all", "adds, wall µs per row", "CPU µs per row",
                  "added wall, ratio to hand-written", "added CPU, ratio"], rows)


# --- delivery ---------------------------------------------------------------------

BULK = ("SELECT count(*) FILTER (WHERE success) FROM sendkit_delete_api_keys("
        "ARRAY(SELECT 'w' || i FROM generate_series(1, {n}) AS i))")


def call_directly(session, count):
    wall, cpu = wall_clock(), cpu_clock(session.pid)
    done = session.value(BULK.format(n=count))
    sample = wall_clock() - wall, cpu_clock(session.pid) - cpu
    assert int(done) == count, f"{done} of {count} succeeded"
    return sample


def work_off(session, count):
    session.query("TRUNCATE sendkit_revocation")
    session.query("SELECT count(sendkit_request_revocation('w' || i))"
                  f" FROM generate_series(1, {count}) AS i")
    sample = timed(session, "CALL sendkit_process_revocations()")
    done = session.value("SELECT count(*) FROM sendkit_revocation WHERE state = 'done'")
    assert int(done) == count, f"{done} of {count} are done"
    return sample


def delivery_row(context, kind, name, count, concurrency, rounds):
    settings = {"sendkit__base_url": context.server.url(kind, "/slow"),
                "sendkit__ca_file": context.server.ca,
                "sendkit__max_concurrency": concurrency}
    samples = []
    for i in range(rounds):
        turn = {}
        for run in (call_directly, work_off) if i % 2 else (work_off, call_directly):
            # each from cold
            with Session(**settings) as session:
                turn[run] = run(session, count)
        samples.append(turn)

    def all_of(run, clock):
        return [turn[run][clock] for turn in samples]
    row = [f"{name}, {concurrency} at a time"]
    row += [spread([queue / direct for queue, direct in zip(all_of(work_off, clock),
                                                           all_of(call_directly, clock))])
            for clock in (0, 1)]
    row += [f"{median(all_of(run, 0)):.2f}" for run in (work_off, call_directly)]
    row += [f"{median(all_of(run, 1)) / count * 1e6:.0f}" for run in (work_off, call_directly)]
    context.log(f"delivery: {row}")
    context.summarize(f"{count:,} queued revocations at 50 ms by one CALL, to one direct call:"
                      f" {row[0]}", row[1], "≤ 1.2")
    return row


def delivery(context, count, rounds):
    with Session() as session:
        session.query("CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw")
        session.query("CREATE USER MAPPING FOR PUBLIC SERVER sendkit"
                      f" OPTIONS (platform_key '{KEY}')")
    return table(["", "wall ratio", "CPU ratio", "wall s, queue", "direct", "CPU µs, queue",
                  "direct"],
                 [delivery_row(context, kind, name, count, concurrency, rounds)
                  for kind, name, concurrency in [("H2", "HTTP/2 TLS", 32),
                                                  ("H2", "HTTP/2 TLS", 100),
                                                  ("TLS", "HTTP/1.1 TLS", 100)]])


def memory(context, count):
    """Of a fresh backend, after it worked off so many and ten times as many."""
    kb = []
    with Session(sendkit__base_url=context.server.url("H2"),
                 sendkit__ca_file=context.server.ca) as session:
        for n in (count, 10 * count):
            work_off(session, n)
            kb.append(anonymous_kb(session.pid))
    context.log(f"memory: {kb} kB")
    return (f"A backend that has worked off {count:,} revocations has {kb[0] / 1024:.1f} MB of"
            f" anonymous memory; after {10 * count:,} more, {kb[1] / 1024:.1f} MB.")


def measure(context, count=10_000, rounds=31):
    try:
        parts = [f"### What a trigger adds to the DELETE of {count:,} workspaces\n",
                 removal(context, count, rounds),
                 f"### {count:,} queued revocations by one CALL, or one direct call for as many;"
                 " 50 ms server delay\n",
                 delivery(context, count, 3),
                 "### Memory of delivery\n", memory(context, 1000)]
    finally:
        with Session() as session:
            session.query(CLEANUP)
    return "## The durable queue\n\n" + "\n\n".join(parts) + "\n"
