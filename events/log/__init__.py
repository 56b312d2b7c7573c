"""Where events are kept (`store`), consumed exactly once (`inbox`), decided upon (`decider`) and followed (`follower`)."""
