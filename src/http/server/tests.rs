//! Connections through a pipe, in virtual time. RFC 9113 as bytes.

use super::*;
use axum::routing::get;
use std::sync::atomic::AtomicU32;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const IDLE: Duration = Duration::from_secs(75);
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The other end of a connection that is served.
fn visit(router: Router) -> (DuplexStream, tokio::task::JoinHandle<()>, Arc<ConnectionUse>) {
    let (near, far) = duplex(1 << 16);
    let visit = Arc::new(ConnectionUse::new(&CancellationToken::new()));
    let visitor = visit.clone();
    let library = HttpLibrary::new(&ConnectionLimits::default());
    let serving = tokio::spawn(async move { library.serve(far, router, &visitor, |_| {}).await });
    (near, serving, visit)
}

fn slow(takes: Duration) -> Router {
    let answer = move || async move {
        sleep(takes).await;
        "done"
    };
    Router::new().route("/", get(answer))
}

async fn read_all(near: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    near.read_to_end(&mut bytes).await.expect("it ends");
    bytes
}

/// `GET /` on a stream (RFC 7541 Appendix A: 2, 6, 4 and :authority), with END_HEADERS and, if it
/// ends there, END_STREAM.
fn get_root(stream: u32, ends: bool) -> Vec<u8> {
    let mut frame = vec![0, 0, 6, 1, 4 | u8::from(ends)];
    frame.extend(stream.to_be_bytes());
    frame.extend([0x82, 0x86, 0x84, 0x41, 1, b'u']);
    frame
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_nothing_is_closed_when_it_has_idled_long_enough() {
    // Over HTTP/2 it is asked by PING after 20 s, which this one never answers.
    let unanswered = Duration::from_secs(40);
    for (bytes, after) in [
        (&b""[..], IDLE),
        (b"PRI * HTT", IDLE),
        (GREETING, unanswered),
        (b"GET / HTTP/1.1\r\nHost", IDLE),
    ] {
        let since = tokio::time::Instant::now();
        let (mut near, serving, _) = visit(slow(Duration::ZERO));
        near.write_all(bytes).await.expect("taken");
        read_all(&mut near).await;
        serving.await.expect("no panic");
        assert!(
            since.elapsed() >= after && since.elapsed() <= after + 2 * FAREWELL,
            "{:?} {bytes:?}",
            since.elapsed()
        );
    }
}

/// The idle time begins with the answer, also when the answer and a look at the connection fall on
/// the same instant (`takes` is a multiple of IDLE) and the order of the two is a matter of chance.
#[tokio::test(start_paused = true)]
async fn a_request_under_way_keeps_its_connection_and_one_that_is_answered_does_not() {
    for takes in [IDLE / 2, IDLE, 10 * IDLE].repeat(20) {
        let since = tokio::time::Instant::now();
        let (mut near, serving, _) = visit(slow(takes));
        near.write_all(b"GET / HTTP/1.1\r\nHost: u\r\n\r\n").await.expect("taken");
        let answer = read_all(&mut near).await;
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        serving.await.expect("no panic");
        let idled = since.elapsed() - takes;
        assert!(
            idled >= IDLE && idled <= 3 * IDLE,
            "{idled:?} after an answer that took {takes:?}"
        );
    }
}

/// nginx and the load balancers of the clouds keep a connection to us for 60 s.
#[tokio::test(start_paused = true)]
async fn a_connection_that_a_load_balancer_still_keeps_takes_its_next_request() {
    let (mut near, _serving, _) = visit(slow(Duration::ZERO));
    for _ in 0..5 {
        near.write_all(b"GET / HTTP/1.1\r\nHost: u\r\n\r\n").await.expect("taken");
        let mut answer = Vec::new();
        while !answer.ends_with(b"done") {
            assert!(near.read_buf(&mut answer).await.expect("open") > 0, "closed");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        sleep(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_goes_on_keeps_its_connection() {
    let endless = || async { Body::new(Endless) };
    let (mut near, serving, visit) = visit(Router::new().route("/", get(endless)));
    near.write_all(b"GET / HTTP/1.1\r\nHost: u\r\n\r\n").await.expect("taken");
    assert!(timeout(100 * IDLE, read_all(&mut near)).await.is_err(), "it has been closed");
    assert!(!serving.is_finished() && !visit.is_idle());
    drop(near);
}

struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// RFC 9113 10.5.
#[tokio::test(start_paused = true)]
async fn a_client_that_floods_its_connection_is_told_to_calm_down_and_closed() {
    const GOAWAY: u8 = 7;
    let (near, serving, _) = visit(slow(Duration::ZERO));
    let (mut reading, mut writing) = tokio::io::split(near);
    writing.write_all(GREETING).await.expect("taken");
    writing.write_all(&get_root(1, true)).await.expect("taken");
    let flooding = tokio::spawn(async move {
        let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0], &[7; 8][..]].concat();
        while writing.write_all(&ping).await.is_ok() {}
    });
    let (mut pongs, mut last) = (0, None);
    let mut head = [0; 9];
    while reading.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        reading.read_exact(&mut payload).await.expect("whole");
        pongs += u32::from((head[3], head[4]) == (6, 1));
        last = Some((head[3], payload));
    }
    let calm = [1_u32.to_be_bytes(), 0xb_u32.to_be_bytes()].concat();
    assert_eq!(last, Some((GOAWAY, calm)));
    assert!((500..1_100).contains(&pongs), "{pongs}");
    serving.await.expect("no panic");
    flooding.await.expect("no panic");
}

/// RFC 9113 5.1.2: more streams than SETTINGS_MAX_CONCURRENT_STREAMS are refused.
#[tokio::test(start_paused = true)]
async fn streams_beyond_those_that_may_be_open_reach_nobody() {
    let asked = Arc::new(AtomicU32::new(0));
    let counted = asked.clone();
    let answer = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<&'static str>()
    };
    let (near, _serving, _) = visit(Router::new().route("/", get(answer)));
    let (mut reading, mut writing) = tokio::io::split(near);
    let refused = tokio::spawn(async move {
        let mut refused = 0;
        let mut head = [0; 9];
        while reading.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            reading.read_exact(&mut payload).await.expect("whole");
            // RST_STREAM with REFUSED_STREAM, or GOAWAY when it has been too many.
            match head[3] {
                3 => refused += u32::from(payload == 7_u32.to_be_bytes()),
                7 => return refused,
                _ => {}
            }
        }
        refused
    });
    writing.write_all(GREETING).await.expect("taken");
    for number in 0..1_000 {
        if writing.write_all(&get_root(number * 2 + 1, number % 2 == 0)).await.is_err() {
            break;
        }
    }
    // What is refused is said before what comes next is read.
    let refused = timeout(IDLE, refused).await.map_or(0, |refused| refused.expect("no panic"));
    let asked = asked.load(Ordering::Relaxed);
    assert_eq!(asked, ConnectionLimits::default().streams, "{refused} refused");
}

#[tokio::test(start_paused = true)]
async fn whose_place_is_needed_leaves_though_an_answer_goes_on() {
    let (mut near, serving, visit) = visit(slow(100 * IDLE));
    near.write_all(b"GET / HTTP/1.1\r\nHost: u\r\n\r\n").await.expect("taken");
    sleep(Duration::from_millis(1)).await;
    assert!(!visit.is_idle());
    let since = tokio::time::Instant::now();
    visit.leave.cancel();
    serving.await.expect("no panic");
    assert!(since.elapsed() <= 2 * FAREWELL);
    assert!(visit.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_house_that_closes_waits_for_the_answers_under_way() {
    let (near, far) = duplex(1 << 16);
    let closing = CancellationToken::new();
    let visit = Arc::new(ConnectionUse::new(&closing));
    let library = HttpLibrary::new(&ConnectionLimits::default());
    let serving =
        tokio::spawn(async move { library.serve(far, slow(IDLE / 2), &visit, |_| {}).await });
    let mut near = near;
    near.write_all(b"GET / HTTP/1.1\r\nHost: u\r\n\r\n").await.expect("taken");
    sleep(Duration::from_millis(1)).await;
    closing.cancel();
    assert!(read_all(&mut near).await.starts_with(b"HTTP/1.1 200 "));
    serving.await.expect("no panic");
}

/// A listener out of file descriptors.
struct Out(Arc<AtomicU32>);

impl Accept for Out {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(io::Error::from_raw_os_error(nix::libc::EMFILE))
    }
}

#[tokio::test(start_paused = true)]
async fn accepting_sleeps_after_an_error_and_longer_after_the_next() {
    let tries = Arc::new(AtomicU32::new(0));
    let stopped = sleep(Duration::from_secs(60));
    receive(Out(tries.clone()), &ConnectionLimits::default(), stopped, |_, _, _| {
        std::future::ready(())
    })
    .await;
    let tries = tries.load(Ordering::Relaxed);
    assert!((60..=70).contains(&tries), "{tries} in a minute");
}
