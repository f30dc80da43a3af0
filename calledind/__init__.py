"""calledin: one GET request makes a phone ring and plays an MP3 to who answers.

The map. A request comes in at `api/` (the playback face, the administrator's socket, the hardened site),
`admission` asks whether this call may be made, `audio/` fetches, checks and encodes the MP3 before the code is
answered, and `store/` keeps the accepted call, on disk or on a Redis that several nodes share. `batches/` asks
admission for the calls of many numbers that one request gave. `dialing/` holds the queue, the trunks, the life of
one call and what it agrees on with its callee; it speaks through `sip/`, `sdp` and `description` (protocol machines
without sockets), and `net/` carries their bytes and keeps the pace of the packets that `rtp/` makes, in a process
of its own. `outcome` turns what the network said into the reason, settles the credit and writes the callback row,
and `callback` delivers it. `model` has the nouns that flow, `codecs` what each codec is on the wire, `settings`
what an operator may change, `keyring` the api keys, `observability/` what operators' tools see (figures, records of
calls, copies of messages), `page/` what they see in a browser, `help/` the guides, `simulator/` a carrier to try it
all against, `cli/` the `calledin` command, `compact` quick JSON, `folders` their fsync, `crash` a switch for tests;
`service/` is the one room that knows all the others, makes, starts and stops them (`service/daemon`), and `tap`
what twistd loads.

    request → admission → accepted call → queue → dial → stream → outcome → callback

One way, no returning: each stage's constructor is handed only the next stage.
"""

__version__ = "0.1.0"
