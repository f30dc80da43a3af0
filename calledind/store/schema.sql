-- Schema 5 of the embedded store. Its number is kept as user_version, and checked whenever the store is opened.

-- How many groups of changes were committed: tells, after a failed commit, whether it reached the disk.
CREATE TABLE commits (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    number INTEGER NOT NULL
);
INSERT INTO commits VALUES (1, 0);

CREATE TABLE api_key (
    id TEXT NOT NULL PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    credits INTEGER NOT NULL CHECK (credits >= 0),
    held INTEGER NOT NULL CHECK (held >= 0),
    charged INTEGER NOT NULL CHECK (charged >= 0),
    added INTEGER NOT NULL,
    disabled INTEGER NOT NULL,
    created_at REAL NOT NULL,
    caller_ids TEXT NOT NULL DEFAULT '[]', -- JSON list
    attestation TEXT NOT NULL DEFAULT '',
    CHECK (credits + held + charged = added)
);

CREATE TABLE call (
    number INTEGER PRIMARY KEY, -- in the order of acceptance
    id TEXT NOT NULL UNIQUE,
    key_id TEXT NOT NULL,
    state TEXT NOT NULL,
    request TEXT NOT NULL, -- JSON of model.Call
    attempt TEXT, -- JSON of model.Attempt
    answer TEXT, -- JSON: {"dialog": ..., "answered_at": ...}
    outcome TEXT, -- JSON of model.Outcome
    charged INTEGER, -- of the settled call: 1 charged, 0 released
    tries INTEGER NOT NULL DEFAULT 0, -- of the callback
    due_at REAL, -- of the callback's next try
    ended_at REAL -- of the outcome, by which it is forgotten
);
-- All calls end as delivered or exhausted: what still lives is found without reading what has ended.
CREATE INDEX call_alive ON call (state, due_at) WHERE state <> 'delivered';
-- What may be forgotten, the oldest first.
CREATE INDEX call_over ON call (ended_at) WHERE state IN ('delivered', 'exhausted');
-- A key's calls, the newest first: ids sort by time.
CREATE INDEX call_of_key ON call (key_id, id);
-- Calls that were asked for by requests that may be repeated.
CREATE INDEX call_idempotent ON call (substr(request ->> 'idempotency', 1, 32))
    WHERE substr(request ->> 'idempotency', 1, 32) > '';

-- Each change of a key's credits.
CREATE TABLE ledger (
    place INTEGER PRIMARY KEY, -- in the order in which they were decided
    key_id TEXT NOT NULL,
    amount INTEGER NOT NULL,
    reason TEXT NOT NULL, -- interface.Entered
    reference TEXT NOT NULL, -- the call's id, or the operator's note
    at REAL NOT NULL,
    balance INTEGER NOT NULL -- api_key.credits after it
);
CREATE INDEX ledger_of_key ON ledger (key_id, place);
CREATE INDEX ledger_by_age ON ledger (at);

-- What was put on the DoNotCall list, and taken off it, in this order.
CREATE TABLE do_not_call (
    place INTEGER PRIMARY KEY,
    listed INTEGER NOT NULL, -- 1 put on, 0 taken off
    -- 64 bits each, the low octet first: 10 ** 10 * int("1" + country_code) + int(phone_number), which is exact.
    numbers BLOB NOT NULL
);
