//! A cable between a client and a house: it can be pulled, and plugged into another house.

use super::line::Cut;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A TCP forwarder on a port of its own.
pub(crate) struct Cable {
    /// Where clients connect to.
    pub(crate) address: SocketAddr,
    target: Arc<watch::Sender<SocketAddr>>,
    cuts: watch::Sender<(u64, Cut)>,
}

impl Cable {
    /// From a free port to there.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let target = Arc::new(watch::Sender::new(target));
        let cuts = watch::Sender::new((0, Cut::Fin));
        let (to, cut) = (target.clone(), cuts.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = *to.borrow();
                tokio::spawn(join(client, server, cut.clone()));
            }
        });
        Self { address, target, cuts }
    }

    /// From now on, new connections go there.
    pub(crate) fn plug_into(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Ends every connection, on both sides.
    pub(crate) fn cut(&self, how: Cut) {
        self.cuts.send_modify(|(count, last)| {
            *count += 1;
            *last = how;
        });
    }
}

async fn join(mut client: TcpStream, server: SocketAddr, mut cuts: watch::Receiver<(u64, Cut)>) {
    cuts.mark_unchanged();
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
