//! A connection with its [`FrameMeter`].

use super::frame_meter::FrameMeter;
use crate::clock;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that ends when its client floods it with frames of HTTP/2.
pub(super) struct Metered<I> {
    io: I,
    meter: FrameMeter,
    /// Of its door, in the log and the metrics.
    name: &'static str,
    is_flooded: bool,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Metered<I> {
    pub(super) fn new(io: I, name: &'static str) -> Self {
        Self { io, meter: FrameMeter::default(), name, is_flooded: false }
    }

    fn flooded(&mut self, context: &mut Context<'_>) -> io::Error {
        self.is_flooded = true;
        metrics::counter!("undertone_http2_floods_total", "door" => self.name).increment(1);
        tracing::debug!(door = self.name, "a client floods its connection with frames");
        if let Some(goaway) = self.meter.farewell() {
            // A client that does not read does not hear it.
            let written = Pin::new(&mut self.io).poll_write(context, &goaway);
            if written.is_ready() {
                let _ = Pin::new(&mut self.io).poll_flush(context);
            }
        }
        refusal()
    }
}

fn refusal() -> io::Error {
    io::Error::other("more frames than the connection is used for")
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Metered<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_flooded {
            return Poll::Ready(Err(refusal()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        let came = buffer.filled().get(before..).unwrap_or_default();
        match this.meter.came(came, clock::instant()) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(this.flooded(context))),
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Metered<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.io).poll_write(context, bytes))?;
        this.meter.went(bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(context, bytes))?;
        let mut left = written;
        for slice in bytes {
            let taken = left.min(slice.len());
            this.meter.went(slice.get(..taken).unwrap_or_default());
            left -= taken;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
