/* The conversation about one lock: request, grant, revoke, downgrade, release, and what is repeated
 * (docs/protocol.md, "Sequence numbers" to "States of a lock at the clerk"; lockd/lock_table.cc and
 * clerk/clerk_core.cc, whose functions the inlines are named after).
 *
 * CLERKS clerks make local operations, clerk 0 OPS and the others OPS_OF_OTHERS, one at a time; every one is shared or exclusive, as
 * it pleases. An exclusive one changes the data, which the clerk keeps in memory until it gives the
 * lock up.
 *
 * The network. By default whatever was sent once can be received at any time, any number of times or
 * never, so every loss, duplicate and change of order is there, and so is every repetition. With
 * FAIR or PATIENT a message is taken out when it is received; one may be lost and one received
 * twice; requests and revokes are repeated: with FAIR at any time, with PATIENT when nothing else
 * can happen, once for the message that was lost.
 *
 * Safety      No two clerks hold modes that conflict. Whoever uses the data sees the last change.
 * Progress    FAIR: if no process waits for ever (weak fairness) every operation ends. PATIENT: a
 *             run ends only when every operation has.
 *
 * Not here: tries, eviction, several local operations at once, leases (lease.pml), more than one
 * server (view.pml).
 */
#ifndef CLERKS
#define CLERKS 2
#endif
#ifndef OPS
#define OPS 3
#endif
#ifndef OPS_OF_OTHERS
#define OPS_OF_OTHERS OPS
#endif
#ifdef FAIR /* A formula knows no conditions. */
#define OPS_OF(c) OPS
#else
#define OPS_OF(c) ((c) == 0 -> OPS : OPS_OF_OTHERS)
#endif

#define NONE 0
#define SHARED 1
#define EXCLUSIVE 2
#define CLASH(a, b) ((a) && (b) && (a) + (b) > 2)

/* One byte for each clerk and kind of message; in it one bit for each sequence number. */
#define REQUEST_SHARED 0
#define REQUEST_EXCLUSIVE 1
#define RELEASE_ALL 2
#define RELEASE_KEEP 3
#define GRANT_SHARED 4
#define GRANT_EXCLUSIVE 5
#define REVOKE_ALL 6
#define REVOKE_KEEP 7
#define NET(c, kind) net[(c) * 8 + (kind)]
#define BIT(s) (1 << (s))
#ifdef FAULT_NO_SEQUENCE_NUMBERS
#define NUMBER(s) 1
#else
#define NUMBER(s) (s)
#endif
#define SEND(c, kind, s) NET(c, kind) = NET(c, kind) | BIT(NUMBER(s))
#define ARRIVES(c, kind, s) (NET(c, kind) & BIT(s))
byte net[CLERKS * 8];

/* At the clerk. */
#define IDLE 0
#define LINGERING 1
#define DRAINING 2
#define GIVING_UP 3
#define NOT_ASKED EXCLUSIVE /* of `keep`, as in the code: exclusive means that nothing was asked */
byte held[CLERKS], asked[CLERKS], seq[CLERKS], stage[CLERKS], keep[CLERKS];
byte remembered[CLERKS] = NOT_ASKED;
byte want[CLERKS], pin[CLERKS], ops[CLERKS]; /* the local operation, and how many there were */

/* At the server. */
byte hmode[CLERKS], hseq[CLERKS], hkeep[CLERKS] = NOT_ASKED; /* holders */
byte wmode[CLERKS], wseq[CLERKS];                            /* who waits, in the order of queue */
byte queue[CLERKS], waiting;

/* The data: what is in memory or on disk is `fresh` if it has the last change. */
bool fresh[CLERKS], disk_fresh = true;
#ifdef FAULT_CACHE_KEPT
bool loaded[CLERKS];
#endif

hidden byte i, j, k, m, head;
hidden byte yes;

/* ---- The server: lockd/lock_table.cc ---- */

#ifdef FAULT_IN_TRANSITION_IGNORED
#define MODE_THAT_COUNTS(c) (hkeep[c] < hmode[c] -> hkeep[c] : hmode[c])
#else
#define MODE_THAT_COUNTS(c) hmode[c]
#endif

inline conflicts(c, mode) {
  yes = false;
  for (i : 0 .. CLERKS - 1) {
    if
    :: i != (c) && CLASH(MODE_THAT_COUNTS(i), mode) -> yes = true
    :: else
    fi
  }
}

inline add_holder(c, s, mode) {
  hmode[c] = mode;
  hseq[c] = s;
  hkeep[c] = NOT_ASKED;
  if
  :: mode == SHARED -> SEND(c, GRANT_SHARED, s)
  :: else -> SEND(c, GRANT_EXCLUSIVE, s)
  fi
}

inline remove_holder(c) {
  hmode[c] = NONE;
  hseq[c] = 0;
  hkeep[c] = NOT_ASKED
}

inline send_revoke(c) {
  if
  :: hkeep[c] == NONE -> SEND(c, REVOKE_ALL, hseq[c])
  :: else -> SEND(c, REVOKE_KEEP, hseq[c])
  fi
}

inline remove_waiter_at(at) {
  wmode[queue[at]] = NONE;
  wseq[queue[at]] = 0;
  waiting--;
  for (i : at .. CLERKS - 2) {
    queue[i] = queue[i + 1]
  }
  queue[CLERKS - 1] = 0
}

inline revoke_for_head() {
  head = queue[0];
  k = (wmode[head] == SHARED -> SHARED : NONE);
  for (i : 0 .. CLERKS - 1) {
    if
    :: i != head && CLASH(hmode[i], wmode[head]) && hkeep[i] > k ->
      hkeep[i] = k;
      send_revoke(i)
    :: else
    fi
  }
}

inline settle() {
  do
  :: waiting == 0 -> break
  :: else ->
    head = queue[0];
    conflicts(head, wmode[head]);
    if
    :: yes ->
      revoke_for_head();
      break
    :: else ->
      add_holder(head, wseq[head], wmode[head]);
      remove_waiter_at(0)
    fi
  od
}

inline server_request(c, s, mode) {
  if
  :: hmode[c] && (s) < hseq[c]
  :: hmode[c] && (s) == hseq[c] -> /* repeat_answer */
    if
    :: hmode[c] == SHARED -> SEND(c, GRANT_SHARED, s)
    :: else -> SEND(c, GRANT_EXCLUSIVE, s)
    fi;
    if
    :: hkeep[c] < hmode[c] -> send_revoke(c)
    :: else
    fi
  :: else ->
    remove_holder(c); /* Whoever asks holds nothing. */
    if
    :: wmode[c] && (s) <= wseq[c]
    :: else ->
      if
      :: wmode[c] ->
        for (j : 0 .. CLERKS - 1) {
          if
          :: j < waiting && queue[j] == (c) ->
            remove_waiter_at(j);
            break
          :: else
          fi
        }
      :: else
      fi;
      wmode[c] = mode;
      wseq[c] = s;
      queue[waiting] = c;
      waiting++
    fi;
    settle()
  fi
}

#ifdef FAULT_RELEASE_OF_ANY_NUMBER
#define MINE(c, s) (hmode[c] && (s) > 0)
#else
#define MINE(c, s) (hmode[c] && hseq[c] == (s))
#endif

inline server_release(c, s, kept) {
  if
  :: MINE(c, s) && (kept) < hmode[c] ->
    hmode[c] = kept;
    if
    :: (kept) == NONE -> remove_holder(c)
    :: else
    fi;
    settle()
  :: else
  fi
}

/* ---- The clerk: clerk/clerk_core.cc ---- */

#define GOING(c) (stage[c] == DRAINING || stage[c] == GIVING_UP)
#define CAN_PIN(c, mode) (held[c] >= (mode) && (!GOING(c) || keep[c] >= (mode)))

inline send_release(c, s, kept) {
  if
  :: (kept) == NONE -> SEND(c, RELEASE_ALL, s)
  :: else -> SEND(c, RELEASE_KEEP, s)
  fi
}

/* The operation has its pin: it uses the data. */
inline use(c) {
  pin[c] = want[c];
  want[c] = NONE;
  for (i : 0 .. CLERKS - 1) {
    assert(i == (c) || !CLASH(pin[i], pin[c]))
  }
  assert(fresh[c]);
  if
  :: pin[c] == EXCLUSIVE ->
    for (i : 0 .. CLERKS - 1) {
      fresh[i] = (i == (c))
    }
    disk_fresh = false
  :: else
  fi
}

inline give_up_if_drained(c) {
  if
  :: stage[c] == DRAINING && pin[c] != EXCLUSIVE && !(keep[c] == NONE && pin[c]) ->
    stage[c] = GIVING_UP;
#ifdef FAULT_RELEASE_BEFORE_FLUSH
    send_release(c, seq[c], keep[c])
#endif
  :: else
  fi
}

inline begin_give_up(c, kept) {
  stage[c] = DRAINING;
  keep[c] = kept;
  give_up_if_drained(c)
}

inline start_revoke(c, kept) {
  if
  :: held[c] <= (kept)
  :: else ->
    if
    :: stage[c] == IDLE && held[c] == EXCLUSIVE ->
      stage[c] = LINGERING;
      keep[c] = kept
    :: stage[c] == IDLE && held[c] == SHARED -> begin_give_up(c, kept)
    :: stage[c] == LINGERING -> keep[c] = (keep[c] < (kept) -> keep[c] : kept)
    :: GOING(c) && (kept) < keep[c] ->
      remembered[c] = (remembered[c] < (kept) -> remembered[c] : kept)
    :: else
    fi
  fi
}

inline request(c) {
  seq[c]++;
  asked[c] = want[c];
  remembered[c] = NOT_ASKED;
  if
  :: want[c] == SHARED -> SEND(c, REQUEST_SHARED, seq[c])
  :: else -> SEND(c, REQUEST_EXCLUSIVE, seq[c])
  fi
}

inline serve_waiter(c) {
  if
  :: want[c] && CAN_PIN(c, want[c]) -> use(c)
  :: else
  fi
}

inline advance(c) {
  serve_waiter(c);
  give_up_if_drained(c);
  if
  :: stage[c] == IDLE && !asked[c] && want[c] ->
    if
    :: held[c] == NONE -> request(c)
    :: else -> /* an upgrade */
#ifdef FAULT_UPGRADE_IN_PLACE
      request(c)
#else
      begin_give_up(c, NONE)
#endif
    fi
  :: else
  fi
}

#ifdef FAULT_UNKNOWN_NUMBER_NOT_ANSWERED
#define ANSWER_UNKNOWN(c, s) skip
#else
#define ANSWER_UNKNOWN(c, s) SEND(c, RELEASE_ALL, s)
#endif

inline clerk_grant(c, s, mode) {
  if
#ifdef FAULT_UPGRADE_IN_PLACE
  :: NUMBER(seq[c]) == (s) && held[c] && !asked[c]
#else
  :: NUMBER(seq[c]) == (s) && held[c] /* a duplicate */
#endif
  :: else ->
    if
#ifdef FAULT_GRANT_OF_ANY_NUMBER
    :: !asked[c] -> ANSWER_UNKNOWN(c, s)
#else
    :: NUMBER(seq[c]) != (s) || !asked[c] -> ANSWER_UNKNOWN(c, s)
#endif
    :: else ->
      held[c] = mode;
      asked[c] = NONE;
#ifdef FAULT_CACHE_KEPT
      fresh[c] = (loaded[c] -> fresh[c] : disk_fresh);
      loaded[c] = true;
#else
      fresh[c] = disk_fresh; /* read when it is used first */
#endif
      for (i : 0 .. CLERKS - 1) {
        assert(i == (c) || !CLASH(held[i], held[c]))
      }
      serve_waiter(c);
      m = remembered[c];
      remembered[c] = NOT_ASKED;
      start_revoke(c, m);
      advance(c)
    fi
  fi
}

inline clerk_revoke(c, s, kept) {
  if
  :: NUMBER(seq[c]) != (s) || !(held[c] || asked[c]) -> ANSWER_UNKNOWN(c, s)
  :: else ->
    if
    :: asked[c] -> /* it overtakes its grant */
#ifndef FAULT_EARLY_REVOKE_FORGOTTEN
      remembered[c] = (remembered[c] < (kept) -> remembered[c] : kept)
#endif
    :: !asked[c] && held[c] <= (kept) -> send_release(c, s, held[c])
    :: else ->
      start_revoke(c, kept);
      advance(c)
    fi
  fi
}

/* The handler has written back and made the kernel forget. */
inline given_up(c) {
  stage[c] = IDLE;
  disk_fresh = disk_fresh || fresh[c];
  held[c] = keep[c];
#ifndef FAULT_CACHE_KEPT
  if
  :: held[c] == NONE -> fresh[c] = false
  :: else
  fi;
#endif
#ifndef FAULT_RELEASE_BEFORE_FLUSH
  send_release(c, seq[c], keep[c]);
#endif
  m = remembered[c];
  remembered[c] = NOT_ASKED;
  start_revoke(c, m);
  advance(c)
}

/* ---- What can happen ---- */

#if defined(FAIR) || defined(PATIENT)
byte losses = 1, duplicates = 1;
/* A message is received, and is gone unless it comes twice. */
#define TAKE(c, kind, s)                                     \
  if                                                         \
  :: NET(c, kind) = NET(c, kind) & ~BIT(s)                   \
  :: duplicates > 0 -> duplicates--                          \
  fi
#else
#define TAKE(c, kind, s) skip
#endif

#define RECEIVE(c, kind, s, what)            \
  atomic {                                   \
    ARRIVES(c, kind, s) -> TAKE(c, kind, s); \
    d_step { what }                          \
  }
#if OPS == 3
#define EACH(c, kind, what, mode)               \
  :: RECEIVE(c, kind, 1, what(c, 1, mode))      \
  :: RECEIVE(c, kind, 2, what(c, 2, mode))      \
  :: RECEIVE(c, kind, 3, what(c, 3, mode))
#elif OPS == 2
#define EACH(c, kind, what, mode)               \
  :: RECEIVE(c, kind, 1, what(c, 1, mode))      \
  :: RECEIVE(c, kind, 2, what(c, 2, mode))
#elif OPS == 1
#define EACH(c, kind, what, mode) :: RECEIVE(c, kind, 1, what(c, 1, mode))
#endif

#define OPERATIONS(c)                                                  \
  :: d_step { ops[c] < OPS_OF(c) && !want[c] && !pin[c] ->                   \
       ops[c]++; want[c] = SHARED; advance(c) }                        \
  :: d_step { ops[c] < OPS_OF(c) && !want[c] && !pin[c] ->                   \
       ops[c]++; want[c] = EXCLUSIVE; advance(c) }                     \
  :: d_step { pin[c] -> pin[c] = NONE; advance(c) }
#define GIVE_UPS(c)                                                             \
  :: d_step { stage[c] == LINGERING -> begin_give_up(c, keep[c]) }              \
  :: d_step { stage[c] == GIVING_UP -> given_up(c) }

#ifdef FAULT_REQUEST_NOT_REPEATED
#define REQUEST_REPEATED false
#else
#define REQUEST_REPEATED true
#endif
#ifdef FAULT_REVOKE_NOT_REPEATED
#define REVOKE_REPEATED false
#else
#define REVOKE_REPEATED true
#endif
#define REQUEST_KIND(c) (asked[c] == SHARED -> REQUEST_SHARED : REQUEST_EXCLUSIVE)
#define REVOKE_KIND(c) (hkeep[c] == NONE -> REVOKE_ALL : REVOKE_KEEP)
#define DONE(c) (ops[c] == OPS_OF(c) && !want[c] && !pin[c])

#define LOSE(at) :: atomic { losses > 0 && net[at] ->                \
       if                                                            \
       :: net[at] & BIT(1) -> net[at] = net[at] & ~BIT(1)            \
       :: net[at] & BIT(2) -> net[at] = net[at] & ~BIT(2)            \
       :: net[at] & BIT(3) -> net[at] = net[at] & ~BIT(3)            \
       fi;                                                           \
       losses-- }
#define LOSSES(c)                                                    \
  LOSE(c * 8)     LOSE(c * 8 + 1) LOSE(c * 8 + 2) LOSE(c * 8 + 3)    \
  LOSE(c * 8 + 4) LOSE(c * 8 + 5) LOSE(c * 8 + 6) LOSE(c * 8 + 7)

#ifdef FAIR
inline dispatch(c, s, of_kind) {
  if
  :: (of_kind) == REQUEST_SHARED -> server_request(c, s, SHARED)
  :: (of_kind) == REQUEST_EXCLUSIVE -> server_request(c, s, EXCLUSIVE)
  :: (of_kind) == RELEASE_ALL -> server_release(c, s, NONE)
  :: (of_kind) == RELEASE_KEEP -> server_release(c, s, SHARED)
  :: (of_kind) == GRANT_SHARED -> clerk_grant(c, s, SHARED)
  :: (of_kind) == GRANT_EXCLUSIVE -> clerk_grant(c, s, EXCLUSIVE)
  :: (of_kind) == REVOKE_ALL -> clerk_revoke(c, s, NONE)
  :: (of_kind) == REVOKE_KEEP -> clerk_revoke(c, s, SHARED)
  fi
}
/* One process for requests, one for releases, … of each clerk, so that none waits for ever. */
proctype takes(byte c; byte kind) {
  do
  EACH(c, kind, dispatch, kind)
  EACH(c, kind + 1, dispatch, kind + 1)
  od
}
proctype clerk(byte c) {
  do
  OPERATIONS(c)
  GIVE_UPS(c)
  od
}
proctype repeats_request(byte c) {
  do
  :: d_step { REQUEST_REPEATED && asked[c] && !ARRIVES(c, REQUEST_KIND(c), seq[c]) ->
       SEND(c, REQUEST_KIND(c), seq[c]) }
  od
}
proctype repeats_revoke(byte c) {
  do
  :: d_step { REVOKE_REPEATED && hkeep[c] < hmode[c] && !ARRIVES(c, REVOKE_KIND(c), hseq[c]) ->
       SEND(c, REVOKE_KIND(c), hseq[c]) }
  od
}
proctype loses(byte c) {
  do
  LOSSES(c)
  od
}
ltl progress { <> (DONE(0) && DONE(1)) }

init {
  byte c, kind;
  atomic {
    for (c : 0 .. CLERKS - 1) {
      run clerk(c);
      run repeats_request(c);
      run repeats_revoke(c);
      for (kind : 0 .. 3) {
        run takes(c, kind * 2)
      }
    }
    run loses(0);
    run loses(1);
    c = 0;
    kind = 0
  }
}
#else
#define ALL(c)                                         \
  OPERATIONS(c)                                        \
  GIVE_UPS(c)                                          \
  EACH(c, REQUEST_SHARED, server_request, SHARED)      \
  EACH(c, REQUEST_EXCLUSIVE, server_request, EXCLUSIVE) \
  EACH(c, RELEASE_ALL, server_release, NONE)           \
  EACH(c, RELEASE_KEEP, server_release, SHARED)        \
  EACH(c, GRANT_SHARED, clerk_grant, SHARED)           \
  EACH(c, GRANT_EXCLUSIVE, clerk_grant, EXCLUSIVE)     \
  EACH(c, REVOKE_ALL, clerk_revoke, NONE)              \
  EACH(c, REVOKE_KEEP, clerk_revoke, SHARED)
#ifdef PATIENT
bool repeated;
inline repeat_all() {
  for (j : 0 .. CLERKS - 1) {
    if
    :: REQUEST_REPEATED && asked[j] -> SEND(j, REQUEST_KIND(j), seq[j])
    :: else
    fi;
    if
    :: REVOKE_REPEATED && hkeep[j] < hmode[j] -> SEND(j, REVOKE_KIND(j), hseq[j])
    :: else
    fi
  }
}
#endif
active proctype everything() {
  do
  ALL(0)
  ALL(1)
#if CLERKS == 3
  ALL(2)
#endif
#ifdef PATIENT
  LOSSES(0)
  LOSSES(1)
  :: timeout ->
    if
    :: DONE(0) && DONE(1) -> break
    :: else ->
      atomic {
        !repeated -> repeated = true;
        d_step { repeat_all(); j = 0 }
      }
    fi
#endif
  od
}
#endif
