//! Answers that are streams.

use super::*;

#[tokio::test]
async fn events_begin_with_the_connection_and_arrive_in_order() {
    let daemon = Daemon::start().await;
    let (send, receive) = mpsc::channel(8);
    *daemon.world.events.lock().unwrap() = Some(receive);
    let mut events = daemon.client().events(Call::new("mgmt.test.Events", "dom0")).await.unwrap();
    assert_eq!(events.next().await.unwrap(), Some(Event::connection_established()));
    for number in 0..3 {
        send.send(Event::new("work", format!("e{number}")).with("k", "")).await.unwrap();
    }
    drop(send);
    for number in 0..3 {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!((event.name(), event.get("k")), (format!("e{number}").as_str(), Some("")));
    }
    assert_eq!(events.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_refused_subscription_is_answered_with_an_exception() {
    let daemon = Daemon::start().await;
    let mut events = daemon.client().events(Call::new("mgmt.test.Events", "dom0")).await.unwrap();
    let refused = events.next().await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(e) if e.message() == "no events"), "{refused}");
}

#[tokio::test]
async fn a_subscriber_that_leaves_is_noticed_without_an_event() {
    let daemon = Daemon::start().await;
    let (send, receive) = mpsc::channel(8);
    *daemon.world.events.lock().unwrap() = Some(receive);
    let mut events = daemon.client().events(Call::new("mgmt.test.Events", "dom0")).await.unwrap();
    events.next().await.unwrap();
    assert!(!send.is_closed());
    drop(events);
    timeout(Duration::from_secs(5), send.closed()).await.expect("the stream is dropped");
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_holds_no_more_than_its_queue() {
    let daemon = Daemon::start().await;
    let (send, receive) = mpsc::channel(8);
    *daemon.world.events.lock().unwrap() = Some(receive);
    let mut stream = daemon.connect().await;
    stream.write_all(b"mgmt.test.Events dom0 name dom0\0").await.unwrap();
    stream.shutdown().await.unwrap();
    let large = Event::new("work", "large").with("k", "v".repeat(50_000));
    let mut sent = 0;
    while timeout(Duration::from_millis(300), send.send(large.clone())).await.is_ok() {
        sent += 1;
        assert!(sent < 100, "events pile up in the server");
    }
    assert_eq!(daemon.raw_text("mgmt.test.Echo+ dom0 name work\0x").await, "0\0 x");
}
