//! A cable between a client and a server: it can be pulled, and plugged into another server.

use super::cometd_connection::Cut;
use super::gateway_server::PATIENCE;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A TCP forwarder on a port of its own.
pub(crate) struct Cable {
    /// Where clients connect to.
    pub(crate) address: SocketAddr,
    target: Arc<watch::Sender<SocketAddr>>,
    passes_websockets: Arc<AtomicBool>,
    connections: Arc<Mutex<Connections>>,
}

/// Those that the next cut ends. A client comes back at once: its new connection belongs to the cut
/// after that.
#[derive(Default)]
struct Connections {
    cut: watch::Sender<Option<Cut>>,
    joined: Vec<JoinHandle<()>>,
}

impl Cable {
    /// From a free port to there.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let target = Arc::new(watch::Sender::new(target));
        let passes_websockets = Arc::new(AtomicBool::new(true));
        let connections = Arc::<Mutex<Connections>>::default();
        let (to, passes, all) = (target.clone(), passes_websockets.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = *to.borrow();
                let mut all = all.lock().expect("nobody died");
                let joined = tokio::spawn(join(
                    client,
                    server,
                    all.cut.subscribe(),
                    passes.load(Ordering::SeqCst),
                ));
                all.joined.push(joined);
            }
        });
        Self { address, target, passes_websockets, connections }
    }

    /// From now on, new connections go there.
    pub(crate) fn plug_into(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// From now on, it is like a proxy that does not know websockets.
    pub(crate) fn block_websockets(&self) {
        self.passes_websockets.store(false, Ordering::SeqCst);
    }

    /// Ends every connection, on both sides. When it returns, both kernels know.
    pub(crate) async fn cut(&self, how: Cut) {
        let connections = std::mem::take(&mut *self.connections.lock().expect("nobody died"));
        connections.cut.send_replace(Some(how));
        for connection in connections.joined {
            let ended = tokio::time::timeout(PATIENCE, connection).await;
            ended.expect("in time").expect("a connection");
        }
    }
}

async fn join(
    mut client: TcpStream,
    server: SocketAddr,
    mut cut: watch::Receiver<Option<Cut>>,
    passes_websockets: bool,
) {
    if !passes_websockets && asks_for_websocket(&client).await {
        let _ = client
            .write_all(
                b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            )
            .await;
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        how = cut.wait_for(Option::is_some) => {
            if how.is_ok_and(|how| *how == Some(Cut::Rst)) {
                let (_, _) = (client.set_zero_linger(), server.set_zero_linger());
            }
        }
    }
}

async fn asks_for_websocket(client: &TcpStream) -> bool {
    let mut head = [0; 4096];
    let length = client.peek(&mut head).await.unwrap_or(0);
    String::from_utf8_lossy(&head[..length]).to_ascii_lowercase().contains("upgrade: websocket")
}
