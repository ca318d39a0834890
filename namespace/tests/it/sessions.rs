//! Sessions, as the state machine sees them.

use namespace::machine::command::Op;
use wire::meta::Sharing;
use wire::status::Status;

use crate::harness::World;

/// A mount whose kernel remembers everything goes with no other one, whoever comes first; its own
/// next life is no other one.
#[test]
fn a_sole_session_is_alone() {
    let mut world = World::new();
    let shared = world.session;
    assert_eq!(world.try_session(2, Sharing::Sole), Err(Status::NotAlone));
    assert!(world.try_session(3, Sharing::Shared).is_ok());
    world.op(Op::EndSession { session: shared, clean: true }).unwrap();
    assert_eq!(world.try_session(2, Sharing::Sole), Err(Status::NotAlone), "one is still there");
    let third = world.try_session(3, Sharing::Sole).unwrap();
    let again = world.try_session(3, Sharing::Sole).unwrap();
    assert_ne!(again, third);
    assert_eq!(world.try_session(4, Sharing::Shared), Err(Status::NotAlone));
    world.op(Op::EndSession { session: again, clean: false }).unwrap();
    assert!(world.try_session(4, Sharing::Shared).is_ok());
}
