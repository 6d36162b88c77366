//! A cable between a client and a house: it can be pulled, and plugged into another house.

use super::line::Cut;
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
    cuts: watch::Sender<(u64, Cut)>,
    passes_websockets: Arc<AtomicBool>,
    connections: Connections,
}

type Connections = Arc<Mutex<Vec<JoinHandle<()>>>>;

impl Cable {
    /// From a free port to there.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let target = Arc::new(watch::Sender::new(target));
        let cuts = watch::Sender::new((0, Cut::Fin));
        let passes_websockets = Arc::new(AtomicBool::new(true));
        let connections = Connections::default();
        let spliced = connections.clone();
        let (to, cut, passes) = (target.clone(), cuts.subscribe(), passes_websockets.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = *to.borrow();
                let joined = tokio::spawn(join(client, server, cut.clone(), passes.load(Ordering::SeqCst)));
                spliced.lock().expect("nobody died").push(joined);
            }
        });
        Self {
            address,
            target,
            cuts,
            passes_websockets,
            connections,
        }
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
        self.cuts.send_modify(|(count, last)| {
            *count += 1;
            *last = how;
        });
        let connections = std::mem::take(&mut *self.connections.lock().expect("nobody died"));
        for connection in connections {
            connection.await.expect("a connection");
        }
    }
}

async fn join(mut client: TcpStream, server: SocketAddr, mut cuts: watch::Receiver<(u64, Cut)>, passes_websockets: bool) {
    cuts.mark_unchanged();
    if !passes_websockets && asks_for_websocket(&client).await {
        let _ = client
            .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await;
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        changed = cuts.changed() => {
            if changed.is_ok() && cuts.borrow().1 == Cut::Rst {
                let (_, _) = (client.set_zero_linger(), server.set_zero_linger());
            }
        }
    }
}

async fn asks_for_websocket(client: &TcpStream) -> bool {
    let mut head = [0; 4096];
    let length = client.peek(&mut head).await.unwrap_or(0);
    String::from_utf8_lossy(&head[..length])
        .to_ascii_lowercase()
        .contains("upgrade: websocket")
}
