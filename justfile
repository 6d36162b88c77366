# The words CI runs; `./test` runs them all.

_default:
    @just --list

# Is everything formatted?
fmt:
    cargo fmt --check

# Clippy, warnings denied.
lint:
    cargo clippy --locked --all-targets --all-features -- -D warnings

# The core modules alone, without anything that touches the world.
quiet:
    cargo check --locked --lib --no-default-features

# The lean product, without the demo, its phones and its clients, warnings denied.
lean:
    cargo clippy --locked --no-default-features --features io --bin undertone -- -D warnings

# The documentation, warnings denied.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --all-features --document-private-items

# Licences, bans, sources; advisories when their database can be reached.
deny:
    cargo deny --locked --log-level error check licenses bans sources
    @if timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then cargo deny --locked --log-level error check --disable-fetch advisories; \
     else echo "advisories NOT CHECKED: https://github.com/rustsec/advisory-db cannot be reached from here"; fi

# The one test program and the tests of the modules, interop with SIPp, baresip and node included. `just test NAME` runs one.
[no-exit-message]
test *NAME:
    cargo nextest run --locked --all-features --profile ${NEXTEST_PROFILE:-ci} {{NAME}}

# Only interop with SIPp, baresip, the real CometD clients, browser and proxies.
interop:
    cargo nextest run --locked --all-features --profile ci -E 'test(/^interop::|^clients::|^examples::|^identity::provider::/)'

# Attached to a real Asterisk, which is made when it is missing (500 MB), and to a real Kamailio. `just switches NAME` runs one.
[no-exit-message]
switches *NAME:
    tools/asterisk.sh
    cargo nextest run --locked --all-features --profile switches {{NAME}}

# Counts the shape of the source tree against its aims; `just shape --verbose` lists the offenders.
shape *ARGS:
    python3 tools/shape.py {{ARGS}}

# All benches in short form; `just bench --json` for a machine, one document a line.
bench *ARGS:
    cargo bench --locked --bench coached_calls -- --calls 50,200 --seconds 3 {{ARGS}}
    cargo bench --locked --bench supervision -- {{ARGS}}
    cargo bench --locked --bench sip_messages -- {{ARGS}}
    cargo bench --locked --bench call_setup -- --seconds 3 {{ARGS}}
    cargo bench --locked --bench call_setup -- --seconds 3 --via {{ARGS}}
    cargo bench --locked --bench events -- --short {{ARGS}}
    cargo bench --locked --bench events -- --short --tls --transports long-polling {{ARGS}}
    cargo bench --locked --bench directory -- {{ARGS}}
    cargo bench --locked --bench doors -- {{ARGS}}

# Fuzzes one target for a minute: `just fuzz sip_message`.
fuzz TARGET SECONDS="60":
    cargo +nightly fuzz run {{TARGET}} -- -max_total_time={{SECONDS}}

# The first coached call, in front of your eyes.
demo *ARGS:
    cargo run --locked --release -- demo {{ARGS}}
