//! Frames of HTTP/2 that ask nothing (RFC 9113 10.5), without end, at every door, in clear and over
//! TLS; and ordinary clients that are busy, which are never cut.

use super::{DOORS, gateway_at, is_open, stranger, watch};
use crate::crash::on;
use crate::support::certificates::Certificates;
use crate::support::frames::{
    self, DATA, END_HEADERS, END_STREAM, HEADERS, connect_from, frame, greeting,
};
use crate::support::process::{ANY, Process};
use crate::support::rest_client::client_builder;
use crate::support::talk::PATIENCE;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, split};
use tokio::time::timeout;
use undertone::model::Fact;

/// RFC 9113 6 and 7.
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 8;

/// Far more than a door takes.
const FRAMES: usize = 400_000;

/// One flood: how it begins, and what comes again and again; the number says which time.
struct Flood {
    name: &'static str,
    begin: Vec<u8>,
    again: fn(usize, &str) -> Vec<u8>,
}

fn floods(path: &str) -> Vec<Flood> {
    let of = |name, again| Flood { name, begin: Vec::new(), again };
    let asked = frame(HEADERS, END_HEADERS, 1, &frames::head("POST", path));
    let asked = |name, again| Flood { name, begin: asked.clone(), again };
    vec![
        of("PING", |_, _| frame(PING, 0, 0, &[7; 8])),
        of("SETTINGS", |_, _| frame(frames::SETTINGS, 0, 0, &[])),
        of("full SETTINGS", |_, _| {
            frame(frames::SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255].repeat(2_000))
        }),
        of("WINDOW_UPDATE", |_, _| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        of("PRIORITY", |_, _| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        of("an unknown kind", |_, _| frame(0x42, 0, 0, &[])),
        asked("empty DATA", |_, _| frame(DATA, 0, 1, &[])),
        asked("DATA of one byte", |_, _| frame(DATA, 0, 1, &[0])),
        asked("DATA of padding", |_, _| {
            frame(DATA, PADDED, 1, &[[9].as_slice(), &[0; 9]].concat())
        }),
        asked("HEADERS of an open stream", |_, _| frame(HEADERS, END_HEADERS, 1, &[0x82])),
        asked("HEADERS that end it", |_, _| frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x82])),
        asked("an unknown kind of an open stream", |_, _| frame(0xff, 0xff, 1, &[])),
        Flood {
            name: "DATA of a stream that has ended",
            begin: frame(HEADERS, END_HEADERS | END_STREAM, 1, &frames::head("GET", path)),
            again: |_, _| frame(DATA, 0, 1, &[0; 64]),
        },
        of("rapid reset", |at, path| {
            let stream = 2 * at as u32 + 1;
            [
                frame(HEADERS, END_HEADERS, stream, &frames::head("POST", path)),
                frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            ]
            .concat()
        }),
        of("empty HEADERS", |at, _| {
            frame(HEADERS, END_HEADERS | END_STREAM, 2 * at as u32 + 1, &[])
        }),
        Flood {
            name: "CONTINUATION",
            begin: frame(HEADERS, 0, 1, &frames::head("POST", path)),
            again: |_, _| frame(CONTINUATION, 0, 1, &[]),
        },
    ]
}

/// Sends it until the other end has closed. Not closed: a failure.
async fn send(connection: impl AsyncRead + AsyncWrite, flood: &Flood, path: &str) {
    let (mut reading, mut writing) = split(connection);
    let sending = async {
        let mut bytes = [greeting(), flood.begin.clone()].concat();
        for at in 0..FRAMES {
            bytes.extend((flood.again)(at, path));
            if bytes.len() > 16 * 1024 {
                if writing.write_all(&bytes).await.is_err() {
                    return;
                }
                bytes.clear();
            }
        }
        let _ = writing.write_all(&bytes).await;
        std::future::pending().await
    };
    let both = async {
        tokio::select! {
            closed = frames::is_closed(&mut reading, 2 * PATIENCE) => assert!(closed),
            () = sending => {}
        }
    };
    let ended = timeout(PATIENCE, both).await;
    assert!(ended.is_ok(), "{} goes on for ever", flood.name);
}

/// The figure of this name, of all doors together.
async fn figure(scrape: &reqwest::Client, admin: SocketAddr, scheme: &str, name: &str) -> f64 {
    let text = scrape.get(format!("{scheme}://{admin}/metrics")).send().await.unwrap();
    let text = text.text().await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

async fn every_flood_ends(process: &Process, doors: &[(&str, &str)]) {
    for (door, path) in doors {
        for flood in floods(path) {
            let connection = connect_from(stranger(90), process.door(door)).await;
            send(connection, &flood, path).await;
        }
    }
    let (admin, scrape) = (process.door("admin"), client_builder().build().unwrap());
    let ended = figure(&scrape, admin, "http", "undertone_http2_floods_total").await;
    // The library ends some itself.
    assert!(ended >= 8.0 * doors.len() as f64, "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_end_their_connection_at_every_door_and_no_other() {
    let place = tempfile::tempdir().unwrap();
    let process = super::serve(place.path(), "").await;
    process.ready().await;
    let mut line = gateway_at(process.door("grpc"), place.path()).await;
    let mut neighbour = watch(stranger(90), process.door("grpc")).await;
    every_flood_ends(&process, &DOORS).await;
    is_open(&process, place.path()).await;
    while let Ok(fact) = line.facts.try_recv() {
        assert_ne!(fact, Fact::Lost, "the gateway's watch has ended");
    }
    // Another connection from the same address.
    neighbour.write_all(&frame(PING, 0, 0, &[9; 8])).await.unwrap();
    let answered = async {
        while let Some((kind, flags, _, payload)) = frames::next(&mut neighbour).await {
            if (kind, flags, &payload[..]) == (PING, 1, &[9; 8][..]) {
                return true;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, answered).await.expect("an answer"), "it was cut, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_end_their_connection_at_a_sip_backend_too() {
    let place = tempfile::tempdir().unwrap();
    let process = Process::start("sip-backend", place.path(), &on(ANY, ANY, ANY, "")).await;
    every_flood_ends(&process, &DOORS[1..]).await;
    gateway_at(process.door("grpc"), place.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_end_their_connection_over_tls_too() {
    let place = tempfile::tempdir().unwrap();
    let certificates = Certificates::new();
    let pair = certificates.server();
    let tls = format!(
        "[tls]\ncertificate = '{}'\nkey = '{}'\n",
        pair.certificate.display(),
        pair.key.display()
    );
    let process = Process::start("serve", place.path(), &(on(ANY, ANY, ANY, "") + &tls)).await;
    let client = certificates.client();
    for (door, path) in DOORS {
        for flood in floods(path) {
            let stream = connect_from(stranger(91), process.door(door)).await;
            let stream = client.connect("localhost", stream, &[b"h2"]).await.unwrap();
            send(stream, &flood, path).await;
        }
    }
    let (admin, scrape) = (process.door("admin"), certificates.http_client());
    let ended = figure(&scrape, admin, "https", "undertone_http2_floods_total").await;
    assert!(ended >= 24.0, "{ended}");
}

/// A body of as many frames as bytes, and the same once more.
#[tokio::test(flavor = "multi_thread")]
async fn small_uploads_byte_by_byte_are_answered() {
    let place = tempfile::tempdir().unwrap();
    let process = super::serve(place.path(), "").await;
    process.ready().await;
    for (door, path) in [("rest", "/api/v2/me/devices/7"), ("grpc", "/x.Y/Z")] {
        let mut connection = connect_from(stranger(92), process.door(door)).await;
        connection.write_all(&greeting()).await.unwrap();
        for stream in [1, 3] {
            let mut bytes = frame(HEADERS, END_HEADERS, stream, &frames::head("POST", path));
            for _ in 0..450 {
                bytes.extend(frame(DATA, 0, stream, b" "));
            }
            bytes.extend(frame(DATA, END_STREAM, stream, b" "));
            connection.write_all(&bytes).await.unwrap();
            let answered = async {
                while let Some((kind, _, of, _)) = frames::next(&mut connection).await {
                    if (kind, of) == (HEADERS, stream) {
                        return true;
                    }
                }
                false
            };
            assert!(timeout(PATIENCE, answered).await.expect("an answer"), "{door} has cut it");
        }
    }
    let (admin, scrape) = (process.door("admin"), client_builder().build().unwrap());
    assert_eq!(figure(&scrape, admin, "http", "undertone_http2_floods_total").await, 0.0);
}

/// Small windows make a client open them again and again; so does measuring the round trip.
#[tokio::test(flavor = "multi_thread")]
async fn busy_clients_over_http_2_are_never_cut() {
    let place = tempfile::tempdir().unwrap();
    let process = super::serve(place.path(), "").await;
    process.ready().await;
    let rest = process.door("rest");
    let builder = || client_builder().http2_prior_knowledge().timeout(PATIENCE);
    let clients = [
        ("ordinary", builder()),
        ("small windows", {
            let builder = builder().http2_initial_stream_window_size(1_024);
            builder.http2_initial_connection_window_size(2_048)
        }),
        ("measures", builder().http2_adaptive_window(true)),
        ("keeps alive", {
            let builder = builder().http2_keep_alive_interval(Duration::from_millis(50));
            builder.http2_keep_alive_while_idle(true).http2_keep_alive_timeout(PATIENCE)
        }),
    ];
    let (admin, scrape) = (process.door("admin"), client_builder().build().unwrap());
    for (name, builder) in clients {
        let client = builder.build().unwrap();
        // The document of 200 KB and more, read whole, and requests that are given up at once.
        for _ in 0..20 {
            let asked = (0..8).map(|_| async {
                let url = format!("http://{rest}/api/v2/openapi.json");
                let document = client.get(url).send().await.expect(name);
                assert!(document.bytes().await.expect(name).len() > 50_000);
            });
            futures_util::future::join_all(asked).await;
        }
        for _ in 0..1_500 {
            let url = format!("http://{rest}/api/v2/diagnostics/version");
            let answer = client.get(url).send().await.expect(name);
            drop(answer);
        }
        let ended = figure(&scrape, admin, "http", "undertone_http2_floods_total").await;
        assert_eq!(ended, 0.0, "{name} is taken for a flood");
    }
}
