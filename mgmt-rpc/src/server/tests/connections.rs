//! Connections: their requests, limits and ends.

use super::*;

#[tokio::test]
async fn a_request_of_the_limit_is_taken_and_one_byte_more_is_not() {
    let daemon = Daemon::start().await;
    let header = b"mgmt.test.Length dom0 name work\0";
    let mut request = header.to_vec();
    request.resize(65536, b'x');
    assert_eq!(daemon.raw(&request).await, format!("0\0{}", 65536 - header.len()).as_bytes());
    request.push(b'x');
    let too_long = b"2\0ProtocolError\0\0malformed request: %s\0more than 65536 bytes\0";
    assert_eq!(daemon.raw(&request).await, too_long);
    // A header of the limit, its NUL included, is read; one without a NUL within the limit is not.
    let mut header = b"mgmt.test.Echo+".to_vec();
    header.resize(65536 - " dom0 name work\0".len(), b'a');
    header.extend_from_slice(b" dom0 name work\0");
    assert!(daemon.raw(&header).await.starts_with(b"0\0aaa"));
    header.insert(20, b'a');
    assert_eq!(daemon.raw(&header).await, too_long);
}

#[tokio::test]
async fn a_client_that_sends_far_too_much_can_still_read_why_not() {
    let daemon = Daemon::start().await;
    for destination in ["work", "nowhere"] {
        let mut request = format!("mgmt.test.Length dom0 name {destination}\0").into_bytes();
        request.resize(4 << 20, b'x');
        let answer = String::from_utf8(daemon.raw(&request).await).unwrap();
        assert!(answer.starts_with("2\0"), "{answer}");
    }
    assert!(daemon.raw(&vec![b'x'; 4 << 20]).await.starts_with(b"2\0ProtocolError\0"));
}

#[tokio::test]
async fn nothing_is_done_before_the_half_close() {
    let daemon = Daemon::start().await;
    daemon.world.go.notify_one();
    let mut stream = daemon.connect().await;
    stream.write_all(b"mgmt.test.Slow dom0 name work\0").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(daemon.world.told(), [""; 0]);
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, b"0\0");
    assert_eq!(daemon.world.told(), ["done"]);
}

#[tokio::test]
async fn a_request_in_single_bytes_is_one_request() {
    let daemon = Daemon::start().await;
    let mut stream = daemon.connect().await;
    for byte in b"mgmt.test.Echo+a dom0 name work\0pay\0load" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, b"0\0a pay\0load");
}

#[tokio::test]
async fn a_client_that_leaves_right_after_sending_is_served_all_the_same() {
    let daemon = Daemon::start().await;
    let mut stream = daemon.connect().await;
    stream.write_all(b"mgmt.test.Slow dom0 name work\0").await.unwrap();
    drop(stream);
    sleep(Duration::from_millis(50)).await;
    daemon.world.go.notify_one();
    daemon.world.finished(1).await;
    assert_eq!(daemon.world.told(), ["done"]);
}

#[tokio::test]
async fn a_call_that_a_close_cancels_is_cancelled_by_a_close_and_not_by_a_half_close() {
    let daemon = Daemon::start().await;
    let request = b"mgmt.test.Patient dom0 name work\0";
    let mut stays = daemon.connect().await;
    stays.write_all(request).await.unwrap();
    stays.shutdown().await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(daemon.world.told(), [""; 0]);
    let mut leaves = daemon.connect().await;
    leaves.write_all(request).await.unwrap();
    leaves.shutdown().await.unwrap();
    drop(leaves);
    daemon.world.finished(1).await;
    daemon.world.go.notify_one();
    daemon.world.finished(2).await;
    assert_eq!(read_all(&mut stays).await, b"0\0");
    assert_eq!(daemon.world.told(), ["cancelled", "done"]);
}

#[tokio::test]
async fn a_client_that_is_too_slow_with_its_request_is_told_the_limit() {
    let daemon = Daemon::with(limits(|l| l.read_timeout_s = count(1)), Manners::default()).await;
    let (mut silent, mut slow, mut endless) =
        (daemon.connect().await, daemon.connect().await, daemon.connect().await);
    slow.write_all(b"mgmt.test.Echo").await.unwrap();
    endless.write_all(b"mgmt.test.Echo dom0 name work\0").await.unwrap();
    let started = Instant::now();
    let limit = b"2\0QubesException\0\0limit reached: %s = %s\0read_timeout_s\x001\0";
    assert_eq!(read_all(&mut silent).await, b"");
    assert!(started.elapsed() > Duration::from_millis(700), "{:?}", started.elapsed());
    // They go on sending once they were given up, and still get to read the answer.
    sleep(Duration::from_millis(500)).await;
    for stream in [&mut slow, &mut endless] {
        stream.write_all(b"more").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_all(stream).await, limit);
    }
}

#[tokio::test]
async fn connections_past_the_limit_are_told_so_and_places_come_back() {
    let daemon = Daemon::with(limits(|l| l.connections = count(2)), Manners::default()).await;
    let held = (daemon.connect().await, daemon.connect().await);
    let limit = "2\0QubesException\0\0limit reached: %s = %s\0connections\x002\0";
    assert_eq!(daemon.raw_text("mgmt.test.Echo+ dom0 name work\0").await, limit);
    drop(held);
    let freed = async {
        while daemon.raw_text("mgmt.test.Echo+ dom0 name work\0").await == limit {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), freed).await.unwrap();
}

#[tokio::test]
async fn a_source_has_its_own_limit_and_dom0_has_none() {
    let daemon = Daemon::with(limits(|l| l.connections_per_source = count(1)), Manners::default()).await;
    let waiting = |source: &'static str| {
        let client = daemon.client().with_source(source);
        tokio::spawn(async move { client.call(Call::new("mgmt.test.Slow", "work"), b"").await.unwrap() })
    };
    let calls = [waiting("dom0"), waiting("dom0"), waiting("friend")];
    sleep(Duration::from_millis(200)).await;
    let echo = Call::new("mgmt.test.Echo", "work");
    let refused = daemon.client().with_source("friend").call(echo, b"").await.unwrap();
    let Answer::Exception(refused) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.message(), "limit reached: connections_per_source = 1");
    assert_eq!(daemon.client().call(echo, b"").await.unwrap(), Answer::Ok(b" ".to_vec()));
    for _ in &calls {
        daemon.world.go.notify_one();
        sleep(Duration::from_millis(20)).await;
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), Answer::Ok(Vec::new()));
    }
    let again = daemon.client().with_source("friend").call(echo, b"").await.unwrap();
    assert_eq!(again, Answer::Ok(b" ".to_vec()));
}

#[tokio::test]
async fn a_client_that_does_not_read_delays_nobody() {
    let daemon = Daemon::start().await;
    let mut slow = daemon.connect().await;
    slow.write_all(b"mgmt.test.Big+50000000 dom0 name work\0").await.unwrap();
    slow.shutdown().await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(daemon.raw_text("mgmt.test.Echo+ dom0 name work\0x").await, "0\0 x");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(read_all(&mut slow).await.len(), 50_000_002);
}

#[tokio::test]
async fn at_the_end_calls_finish_and_streams_and_uploads_are_cut() {
    let daemon = Daemon::start().await;
    let (send, receive) = mpsc::channel(8);
    *daemon.world.events.lock().unwrap() = Some(receive);
    let mut events = daemon.client().events(Call::new("mgmt.test.Events", "dom0")).await.unwrap();
    events.next().await.unwrap();
    let client = daemon.client();
    let slow = tokio::spawn(async move { client.call(Call::new("mgmt.test.Slow", "work"), b"").await });
    let mut upload = daemon.connect().await;
    upload.write_all(b"mgmt.test.Upload dom0 name dom0\0data").await.unwrap();
    let mut unfinished = daemon.connect().await;
    unfinished.write_all(b"mgmt.test.Slow").await.unwrap();
    sleep(Duration::from_millis(100)).await;

    let (world, socket) = (Arc::clone(&daemon.world), daemon.socket.clone());
    let ended = tokio::spawn(daemon.stop());
    assert_eq!(events.next().await.unwrap(), None);
    assert_eq!(read_all(&mut unfinished).await, b"");
    assert_eq!(read_all(&mut upload).await, b"2\0QubesException\0\0the daemon is shutting down\0");
    upload.shutdown().await.unwrap();
    assert!(!ended.is_finished(), "the slow call is waited for");
    assert!(!socket.exists() && UnixStream::connect(&socket).await.is_err());
    world.go.notify_one();
    assert_eq!(slow.await.unwrap().unwrap(), Answer::Ok(Vec::new()));
    timeout(Duration::from_secs(6), ended).await.expect("an end").unwrap();
    assert_eq!(world.told(), ["the daemon is shutting down", "done"]);
    drop(send);
}

#[tokio::test]
async fn a_client_that_breaks_off_during_its_answer_does_not_disturb_the_daemon() {
    let daemon = Daemon::start().await;
    for _ in 0..20 {
        let mut stream = daemon.connect().await;
        stream.write_all(b"mgmt.test.Big+5000000 dom0 name work\0").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut some = [0; 100];
        stream.read_exact(&mut some).await.unwrap();
    }
    assert_eq!(daemon.raw_text("mgmt.test.Echo+ dom0 name work\0x").await, "0\0 x");
    timeout(Duration::from_secs(5), daemon.stop()).await.expect("no connection stays");
}
