//! Raw bytes to a TCP port on the guest's loopback.

use crate::Error;
use banger_wire::agent::Reply;
use banger_wire::stream::{Reader, send_message as reply};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) async fn run<R, W>(port: u16, reader: Reader<R>, mut write: W) -> Result<(), Error>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut inside = match TcpStream::connect(("127.0.0.1", port)).await {
        Ok(inside) => inside,
        Err(error) => {
            let message = format!("port {port} in the guest: {error}");
            return Ok(reply(&mut write, &Reply::Failed { message }).await?);
        }
    };
    reply(&mut write, &Reply::Done).await?;
    let (mut read, early) = reader.into_parts();
    inside.write_all(&early).await?;
    let (mut from_inside, mut to_inside) = inside.split();
    let inward = async {
        tokio::io::copy(&mut read, &mut to_inside).await?;
        to_inside.shutdown().await?;
        std::future::pending::<std::io::Result<()>>().await
    };
    let outward = async {
        tokio::io::copy(&mut from_inside, &mut write).await?;
        write.shutdown().await
    };
    // The vsock device carries no half-closed stream to the host: when the program inside has said all, the
    // whole connection closes, which the host sees as its end.
    tokio::select! {
        broken = inward => Ok(broken?),
        done = outward => Ok(done?),
    }
}
