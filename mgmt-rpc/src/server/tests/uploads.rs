//! Payloads that are streams.

use super::*;

#[tokio::test]
async fn an_upload_of_any_length_arrives_whole() {
    let daemon = Daemon::start().await;
    for length in [0usize, 1, 70_000, 20_000_000] {
        let data = vec![b'x'; length];
        let answer = daemon.client().call(Call::new("mgmt.test.Upload", "dom0"), &data).await.unwrap();
        assert_eq!(answer, Answer::Ok(length.to_string().into_bytes()));
    }
}

#[tokio::test]
async fn an_upload_that_nobody_reads_stops_the_client() {
    let daemon = Daemon::start().await;
    let mut stream = daemon.connect().await;
    stream.write_all(b"mgmt.test.Upload+wait dom0 name dom0\0").await.unwrap();
    let mut sent = 0usize;
    let chunk = vec![b'x'; 65536];
    while let Ok(written) = timeout(Duration::from_millis(300), stream.write(&chunk)).await {
        sent += written.unwrap();
        assert!(sent < 8 << 20, "the daemon takes data that nobody asked for");
    }
    daemon.world.go.notify_one();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, format!("0\0{sent}").as_bytes());
}

#[tokio::test]
async fn an_upload_that_is_broken_off_is_not_complete() {
    let daemon = Daemon::start().await;
    let request = b"mgmt.test.Upload dom0 name dom0\0some data";
    let mut stream = daemon.connect().await;
    stream.write_all(request).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    drop(stream);
    daemon.world.finished(1).await;
    // Also when all has arrived by the time that the daemon begins to read.
    let mut stream = daemon.connect().await;
    stream
        .write_all(&[&b"mgmt.test.Upload+wait dom0 name dom0\0"[..], &[b'x'; 9000]].concat())
        .await
        .unwrap();
    drop(stream);
    sleep(Duration::from_millis(50)).await;
    daemon.world.go.notify_one();
    daemon.world.finished(2).await;
    // And when the client cannot read its own input to the end.
    struct Broken(usize);
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            self.0 += 1;
            if self.0 > 3 {
                return std::task::Poll::Ready(Err(io::Error::other("bad sector")));
            }
            buffer.put_slice(b"data");
            std::task::Poll::Ready(Ok(()))
        }
    }
    let upload = Call::new("mgmt.test.Upload", "dom0");
    let error = daemon.client().call_streaming(upload, Broken(0)).await.unwrap_err();
    assert!(matches!(error, ClientError::Payload(_)), "{error}");
    daemon.world.finished(3).await;
    assert_eq!(daemon.world.told(), [UploadError::BrokenOff.to_string().as_str(); 3]);
}

#[tokio::test]
async fn an_upload_that_is_refused_is_answered_before_it_ends() {
    let daemon = Daemon::start().await;
    let endless = || tokio::io::repeat(b'x');
    let upload = Call::new("mgmt.test.Upload", "dom0");
    let stranger = daemon.client().with_source("stranger");
    let answer = stranger.call_streaming(upload, endless()).await.unwrap();
    assert!(matches!(&answer, Answer::Exception(e) if e.is(Class::PermissionDenied)), "{answer:?}");
    let answer = daemon.client().call_streaming(upload.with("refuse"), endless()).await.unwrap();
    assert!(matches!(&answer, Answer::Exception(e) if e.message() == "enough"), "{answer:?}");
    let wrong = Call { destination: "work", ..upload };
    let answer = daemon.client().call_streaming(wrong, endless()).await.unwrap();
    assert!(matches!(&answer, Answer::Exception(e) if e.is(Class::ProtocolError)), "{answer:?}");
}

#[tokio::test]
async fn an_upload_that_falls_silent_is_given_up_after_the_limit() {
    let daemon = Daemon::with(limits(|l| l.read_timeout_s = count(1)), Manners::default()).await;
    let mut stream = daemon.connect().await;
    stream.write_all(b"mgmt.test.Upload dom0 name dom0\0").await.unwrap();
    // Longer than the limit in all, but never between two reads.
    for _ in 0..4 {
        sleep(Duration::from_millis(400)).await;
        stream.write_all(b"data").await.unwrap();
    }
    assert_eq!(daemon.world.told(), [""; 0]);
    let answer = String::from_utf8(read_all(&mut stream).await).unwrap();
    assert_eq!(answer, "2\0QubesException\0\0limit reached: no data for read_timeout_s = 1\0");
}
