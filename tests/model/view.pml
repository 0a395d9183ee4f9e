/* The view change: a lock goes from one lock server to another (docs/protocol.md, "The view",
 * "Restart and rebuild", "More than one lock server").
 *
 * Two clerks, two servers, one lock, exclusive only. A server serves while its own lease on the view
 * lasts, which it renews by reading the register and finding its epoch there. At any time the other
 * one may believe that it is silent, rightly or not, and take the lock over: compare-and-swap in the
 * register, then it waits until the loser has said that it stopped or the loser's lease has run out,
 * then it asks the clerks what they hold, then it grants. One server may crash at any point, lose
 * all that it knows, and start again. Clerk 0 may stop at any point, for a while or for ever; clerk 1
 * keeps its lease. There are EPOCHS epochs, and each clerk asks at most ASKS times.
 *
 * The network: whatever was sent once can be received at any time, any number of times or never.
 *
 * Safety      Two clerks never use the lock at once. Whoever has it finds every change in place.
 *             No server is told of two holders.
 *
 * As in the code: epochs in all messages, rejoin and report, the wait for inherited leases, the
 * order of death, numbers of requests. Not in the code, where one server at a time has the store: the
 * server's lease on the view and the wait for the loser.
 */
#ifndef EPOCHS
#define EPOCHS 2
#endif
#ifndef ASKS
#define ASKS 1
#endif
#define TERM 2      /* ticks of a clerk's lease */
#ifndef VIEW_TERM
#define VIEW_TERM 2 /* ticks of a server's lease on the view */
#endif
#ifndef CRASHES_MAX
#define CRASHES_MAX 1
#endif
#define NOBODY 2
#define OTHER(x) (1 - (x))

/* The register. */
#define LIVE 0
#define EXPIRED 1
#define GONE 2
byte epoch = 1;    /* the owner is the server with this epoch */
byte state[2];     /* of the clerks' leases */

/* At the disk: a change is in the clerk's log, and in place when this is over. */
bool changed, fenced; /* of clerk 0; the other never dies with a change that is not in place */

/* At the servers. */
#define OFF 0
#define WAITS 1    /* for the loser to stop */
#define REBUILDS 2
#define GRANTS 3
byte phase[2], served[2]; /* its epoch */
byte term[2], patience[2];
byte left[2];      /* of clerk 0's lease */
byte holder[2] = NOBODY, number[2];
bool reported[4];  /* server * 2 + clerk */
byte waits[4];     /* number of the request, or 0 */
byte crashes = CRASHES_MAX;
#ifdef FAULT_VIEW_WRITTEN_BLINDLY
byte seen[2];
#endif

/* At the clerks. */
byte known[2] = 1; /* epoch */
byte age;          /* of clerk 0's lease */
bool holds[2], asked[2], lost[2];
byte seq[2];

/* On the way, one bit for each epoch and number, or epoch and age. */
byte requests[2], releases[2], grants[2], reports[2], renewals, answers, rejoins;
#define AT(e, n) (1 << (((e) - 1) * 2 + (n) - 1))
#define REPORT_AT(e, n) (1 << (((e) - 2) * 3 + (n)))
#define AGE_AT(e, a) (1 << (((e) - 1) * TERM + (a)))
#define AGES_0 (AGE_AT(1, 0) | AGE_AT(2, 0) | AGE_AT(3, 0)) /* TERM is 2 */

#define USABLE(c) (!lost[c] && ((c) == 1 || age < TERM))
#define CHECK() assert(!(holds[0] && USABLE(0) && holds[1] && USABLE(1)))

#ifdef FAULT_SERVER_WITHOUT_LEASE
#define SERVES(s) (phase[s] >= REBUILDS)
#else
#define SERVES(s) (phase[s] >= REBUILDS && term[s] > 0)
#endif

/* ---- Time ---- */

inline tick() {
  age = (age < TERM -> age + 1 : TERM);
  left[0] = (left[0] > 0 -> left[0] - 1 : 0);
  left[1] = (left[1] > 0 -> left[1] - 1 : 0);
  term[0] = (term[0] > 0 -> term[0] - 1 : 0);
  term[1] = (term[1] > 0 -> term[1] - 1 : 0);
  patience[0] = (patience[0] > 0 -> patience[0] - 1 : 0);
  patience[1] = (patience[1] > 0 -> patience[1] - 1 : 0);
  renewals = (renewals & AGES_0) << 1;
  answers = (answers & AGES_0) << 1
}

/* ---- The servers ---- */

/* What nobody will listen to any more: kept apart, equal states would not be the same state. */
#ifdef FAULT_VIEW_WRITTEN_BLINDLY
#define CLEAN_SERVER(e) skip
#else
#define OF_EPOCH(e) (3 << (((e) - 1) * 2))
#define CLEAN_SERVER(e)                               \
  requests[0] = requests[0] & ~OF_EPOCH(e);           \
  requests[1] = requests[1] & ~OF_EPOCH(e);           \
  releases[0] = releases[0] & ~OF_EPOCH(e);           \
  releases[1] = releases[1] & ~OF_EPOCH(e);           \
  renewals = renewals & ~OF_EPOCH(e)
#endif
inline clean_clerk(c, e) {
#ifdef FAULT_OLD_VIEW_ACCEPTED
  skip
#else
  grants[c] = grants[c] & ~((1 << (((e) - 1) * 2)) - 1);
  if
  :: c == 0 -> answers = answers & ~((1 << (((e) - 1) * 2)) - 1)
  :: else
  fi
#endif
}
inline clean_lease_over() {
  requests[0] = 0;
  releases[0] = 0;
  reports[0] = 0;
  renewals = 0;
  left[0] = 0;
  left[1] = 0
}
inline lose() {
  lost[0] = true;
  holds[0] = false;
  asked[0] = false;
  grants[0] = 0;
  answers = 0;
  age = TERM;
  known[0] = 0
}

inline forget(s) {
  if
  :: served[s] > 0 -> CLEAN_SERVER(served[s])
  :: else
  fi;
  phase[s] = OFF;
  served[s] = 0;
  term[s] = 0;
  patience[s] = 0;
  left[s] = 0;
  holder[s] = NOBODY;
  number[s] = 0;
  reported[(s) * 2] = false;
  reported[(s) * 2 + 1] = false;
  waits[(s) * 2] = 0;
  waits[(s) * 2 + 1] = 0
}

inline install(s, e) {
  forget(s);
  served[s] = e;
  epoch = served[s];
  phase[s] = WAITS;
#ifndef FAULT_GAINER_DOES_NOT_WAIT
  patience[s] = VIEW_TERM
#endif
}

/* The loser has stopped, or cannot but have. */
inline begin(s) {
  phase[s] = REBUILDS;
  patience[s] = 0;
  term[s] = VIEW_TERM;
#ifndef FAULT_LEASES_NOT_WAITED_FOR
  left[s] = TERM;
#endif
  rejoins = rejoins | (1 << served[s])
}

#define CAN_RELY(s, c) (reported[(s) * 2 + (c)] || state[c] == GONE)
#ifdef FAULT_EXPIRED_COUNTS_AS_KNOWN
#define REBUILT(s) ((CAN_RELY(s, 0) || state[0] == EXPIRED) && CAN_RELY(s, 1))
#else
#define REBUILT(s) (CAN_RELY(s, 0) && CAN_RELY(s, 1))
#endif
#ifdef FAULT_GRANTS_DURING_REBUILD
#define MAY_GRANT(s) SERVES(s)
#else
#define MAY_GRANT(s) (SERVES(s) && phase[s] == GRANTS)
#endif

inline server_request(c, s, e, n) {
  if
  :: SERVES(s) && served[s] == (e) && state[c] == LIVE ->
    if
    :: holder[s] == (c) && (n) > number[s] ->
      holder[s] = NOBODY; /* Whoever asks holds nothing. */
      number[s] = 0
    :: else
    fi;
    if
    :: holder[s] != (c) && (n) > waits[(s) * 2 + (c)] -> waits[(s) * 2 + (c)] = n
    :: else
    fi
  :: else
  fi
}

inline server_grant(c, s) {
  holder[s] = c;
  number[s] = waits[(s) * 2 + (c)];
  waits[(s) * 2 + (c)] = 0;
  grants[c] = grants[c] | AT(served[s], number[s])
}

inline server_release(c, s, e, n) {
  if
  :: SERVES(s) && served[s] == (e) && holder[s] == (c) && number[s] == (n) && state[c] == LIVE ->
    holder[s] = NOBODY;
    number[s] = 0
  :: else
  fi
}

inline server_report(c, s, e, n) {
  if
  :: SERVES(s) && served[s] == (e) && !reported[(s) * 2 + (c)] && state[c] == LIVE ->
    reported[(s) * 2 + (c)] = true;
    if
    :: (n) > 0 && waits[(s) * 2 + (c)] < (n) ->
      assert(holder[s] == NOBODY || holder[s] == (c));
      waits[(s) * 2 + (c)] = 0;
      holder[s] = c;
      number[s] = n
    :: else
    fi
  :: else
  fi
}

inline server_renew(s, e, a) {
  if
  :: SERVES(s) && served[s] == (e) && state[0] == LIVE ->
    left[s] = TERM;
    answers = answers | AGE_AT(e, a)
  :: else
  fi
}

/* ---- The clerks ---- */

inline clerk_rejoin(c, e) {
  known[c] = e;
  clean_clerk(c, e);
  reports[c] = reports[c] | REPORT_AT(e, (holds[c] -> seq[c] : 0));
  if
  :: asked[c] -> requests[c] = requests[c] | AT(e, seq[c])
  :: else
  fi
}

#ifdef FAULT_OLD_VIEW_ACCEPTED
#define OF_MY_VIEW(c, e) true
#else
#define OF_MY_VIEW(c, e) (known[c] == (e))
#endif

inline clerk_grant(c, e, n) {
  if
  :: OF_MY_VIEW(c, e) && !lost[c] && asked[c] && seq[c] == (n) ->
    asked[c] = false;
    holds[c] = true;
    CHECK();
    assert(c == 0 || !changed)
  :: OF_MY_VIEW(c, e) && !lost[c] && !(seq[c] == (n) && (asked[c] || holds[c])) ->
    releases[c] = releases[c] | AT(e, n)
  :: else
  fi
}

inline clerk_renewed(e, a) {
  if
  :: OF_MY_VIEW(0, e) && !lost[0] ->
    age = (age < (a) -> age : a);
    CHECK()
  :: else
  fi
}

/* ---- What can happen ---- */

#define EPOCHS_OF(M, x, y) M(x, y, 1) M(x, y, 2) EPOCH_3(M, x, y)
#if EPOCHS == 3
#define EPOCH_3(M, x, y) M(x, y, 3)
#else
#define EPOCH_3(M, x, y)
#endif
#if ASKS == 2
#define NUMBERS(M, x, y, e) M(x, y, e, 1) M(x, y, e, 2)
#else
#define NUMBERS(M, x, y, e) M(x, y, e, 1)
#endif

#define REQUEST(c, s, e, n)  :: d_step { (requests[c] & AT(e, n)) -> server_request(c, s, e, n) }
#define RELEASE(c, s, e, n)  :: d_step { (releases[c] & AT(e, n)) -> server_release(c, s, e, n) }
#define REPORT(c, s, e, n)   :: d_step { (reports[c] & REPORT_AT(e, n)) -> server_report(c, s, e, n) }
#define GRANT(c, x, e, n)    :: d_step { (grants[c] & AT(e, n)) -> clerk_grant(c, e, n) }
#define REQUESTS(c, s, e)    NUMBERS(REQUEST, c, s, e)
#define RELEASES(c, s, e)    NUMBERS(RELEASE, c, s, e)
#define REPORTS(c, s, e)     REPORT(c, s, e, 0) NUMBERS(REPORT, c, s, e)
#define GRANTED(c, x, e)     NUMBERS(GRANT, c, x, e)
#if EPOCHS == 3
#define ALL_REPORTS(c, s) REPORTS(c, s, 2) REPORTS(c, s, 3)
#else
#define ALL_REPORTS(c, s) REPORTS(c, s, 2)
#endif
#define RENEW(s, x, e)                                                     \
  :: d_step { (renewals & AGE_AT(e, 0)) -> server_renew(s, e, 0) }         \
  :: d_step { (renewals & AGE_AT(e, 1)) -> server_renew(s, e, 1) }
#define RENEWED(x, y, e)                                                   \
  :: d_step { (answers & AGE_AT(e, 0)) -> clerk_renewed(e, 0) }            \
  :: d_step { (answers & AGE_AT(e, 1)) -> clerk_renewed(e, 1) }
#define REJOIN(c, x, e)                                                    \
  :: d_step { !lost[c] && known[c] < (e) && (rejoins & (1 << (e))) -> clerk_rejoin(c, e) }

#ifdef FAULT_VIEW_WRITTEN_BLINDLY
#define TAKES_OVER(s)                                                      \
  :: d_step { phase[s] == OFF && epoch < EPOCHS && !seen[s] -> seen[s] = epoch }  \
  :: d_step { seen[s] && phase[s] == OFF -> install(s, seen[s] + 1); seen[s] = 0 }
#else
#define TAKES_OVER(s)                                                      \
  :: d_step { phase[s] == OFF && epoch < EPOCHS -> install(s, epoch + 1) }
#endif

#define SERVER(s)                                                                    \
  TAKES_OVER(s)                                                                      \
  :: d_step { phase[s] == WAITS && epoch == served[s] &&                             \
       (phase[OTHER(s)] == OFF || patience[s] == 0) -> begin(s) }                    \
  /* It reads the register. */                                                       \
  :: d_step { phase[s] > OFF && epoch > served[s] -> forget(s) }                     \
  :: d_step { phase[s] >= REBUILDS && epoch == served[s] && term[s] < VIEW_TERM ->   \
       term[s] = VIEW_TERM }                                                         \
  :: d_step { SERVES(s) && phase[s] == REBUILDS && REBUILT(s) -> phase[s] = GRANTS } \
  :: d_step { MAY_GRANT(s) && holder[s] == NOBODY && waits[(s) * 2] ->               \
       server_grant(0, s) }                                                          \
  :: d_step { MAY_GRANT(s) && holder[s] == NOBODY && waits[(s) * 2 + 1] ->           \
       server_grant(1, s) }
/* Each step is a compare-and-swap in the register, and fails with the epoch. */
#define BURIES(s)                                                                    \
  :: d_step { SERVES(s) && epoch == served[s] && state[0] == LIVE && left[s] == 0 -> \
       state[0] = EXPIRED; waits[(s) * 2] = 0; clean_lease_over() }                                      \
  :: d_step { SERVES(s) && epoch == served[s] && state[0] == EXPIRED && !fenced ->\
       fenced = true }                                                            \
  :: d_step { SERVES(s) && epoch == served[s] && state[0] == EXPIRED && fenced && \
       changed -> changed = false }                                            \
  :: d_step { SERVES(s) && epoch == served[s] && state[0] == EXPIRED && fenced && \
       !changed -> state[0] = GONE }                                              \
  :: d_step { SERVES(s) && state[0] == GONE && holder[s] == 0 ->                     \
       holder[s] = NOBODY; number[s] = 0 }
#define CRASHES(s) \
  :: d_step { crashes > 0 && phase[s] > OFF -> crashes--; forget(s) }

#define CLERK(c)                                                                     \
  :: d_step { !lost[c] && !holds[c] && !asked[c] && seq[c] < ASKS ->                 \
       seq[c]++; asked[c] = true; requests[c] = requests[c] | AT(known[c], seq[c]) } \
  :: d_step { holds[c] && !lost[c] && !((c) == 0 && changed && fenced) -> \
       if                                                                            \
       :: c == 0 -> changed = false                                                  \
       :: else                                                                       \
       fi;                                                                           \
       holds[c] = false;                                                             \
       releases[c] = releases[c] | AT(known[c], seq[c]) }
#define CLERK_0                                                                      \
  :: d_step { holds[0] && USABLE(0) && !changed ->                                   \
       if                                                                            \
       :: fenced -> lose()                                                           \
       :: else -> changed = true                                                     \
       fi }                                                                          \
  :: d_step { !lost[0] && !(renewals & AGE_AT(known[0], 0)) ->                       \
       renewals = renewals | AGE_AT(known[0], 0) }
#define HEARS_OF_ITS_END                                                             \
  :: d_step { state[0] != LIVE && !lost[0] -> lose() }

active proctype everything() {
  phase[0] = GRANTS;
  served[0] = 1;
  term[0] = VIEW_TERM;
  left[0] = TERM;
  reported[0] = true;
  reported[1] = true;
  do
  :: d_step { true -> tick() }
  SERVER(0) SERVER(1)
  BURIES(0) BURIES(1)
  CRASHES(0) CRASHES(1)
  CLERK(0) CLERK(1)
  CLERK_0
  HEARS_OF_ITS_END
  EPOCHS_OF(REQUESTS, 0, 0) EPOCHS_OF(REQUESTS, 0, 1)
  EPOCHS_OF(REQUESTS, 1, 0) EPOCHS_OF(REQUESTS, 1, 1)
  EPOCHS_OF(RELEASES, 0, 0) EPOCHS_OF(RELEASES, 0, 1)
  EPOCHS_OF(RELEASES, 1, 0) EPOCHS_OF(RELEASES, 1, 1)
  ALL_REPORTS(0, 0) ALL_REPORTS(0, 1) ALL_REPORTS(1, 0) ALL_REPORTS(1, 1)
  EPOCHS_OF(GRANTED, 0, 0) EPOCHS_OF(GRANTED, 1, 0)
  EPOCHS_OF(RENEW, 0, 0) EPOCHS_OF(RENEW, 1, 0)
  EPOCHS_OF(RENEWED, 0, 0)
  EPOCHS_OF(REJOIN, 0, 0) EPOCHS_OF(REJOIN, 1, 0)
  od
}
