/* Leases, the fence and recovery (docs/protocol.md, "Leases", "The view", "Fence";
 * lockd/lease_table.cc, LockServer::bury, clerk/lease_keeper.h, disk/admission.h).
 *
 * Two clerks want one lock, exclusively, MODS times each, and change the block that it covers. A
 * change is a record in the clerk's log, then the block in its place. Clerk 0 can stop for as long
 * as it likes, at any point, and go on as if nothing had been: it need not do anything. What it has
 * sent to the disk arrives when it likes. Its renewals and their answers are lost, doubled and
 * delayed at will. Clerk 1 keeps its lease. Time goes on by ticks; a lease lasts TERM of them.
 *
 * Safety      Two clerks never use the lock at once (unless CLOCKS_AT_WILL: then clocks differ by
 *             more than the ratio). Whoever has the lock finds all that the disk acknowledged, no
 *             change of a lease that is over lands after that, and the block never gets older.
 * Progress    FAIR: if no process waits for ever but those of clerk 0, which may stop, each by
 *             itself, clerk 1 gets the lock whenever it asks.
 *
 * Not here: what the conversation about the lock is (locks.pml), and a lock server that dies
 * (view.pml).
 */
#ifndef MODS
#define MODS 2
#endif
#ifndef TERM
#define TERM 2
#endif
#define MARGIN 0
#define OTHER(c) (1 - (c))
#define NOBODY 2

/* Of a lease: in the server's table, in the view, at the disk. */
#define LIVE 0
#define CONDEMNED 1 /* has not given up the lock in time: is not renewed any more */
#define DYING 2     /* over; the view does not say so yet */
#define EXPIRED 3   /* the view says so */
#define FENCED 4
#define REPLAYED 5
#define GONE 6

/* At the clerk. */
byte age[1];      /* of the last renewal that was answered, since it was sent */
bool holds[2], asked[2], lost[2];
byte has_read[2]; /* 2: and has changed it */
byte memory[2];   /* version of the block */
byte mods[2];

/* On the way: renewals and answers, one bit for each age; the others one at a time. */
byte renewals[1], answers[1];
byte record[2], block[2]; /* versions, on the way to the disk */
bool grant[2], release[2];

/* At the server. */
byte state[2], left[1] = TERM, holder = NOBODY;

/* At the disk. */
bool admitted[2] = true;
byte applying_record[2], applying_block[2]; /* admitted, not yet done */
byte log[2], disk, acknowledged;

#ifdef FAULT_TIME_NOT_LOOKED_AT
#define USABLE(c) (!lost[c])
#else
#define USABLE(c) (!lost[c] && ((c) == 1 || age[0] < TERM - MARGIN))
#endif

#ifdef CLOCKS_AT_WILL
#define EXPIRES(c) true
#define CHECK_CONFLICT() skip
#define RIGHTFUL(c) (holder == (c))
#else
#define EXPIRES(c) (left[0] == 0)
#define RIGHTFUL(c) true
#define CHECK_CONFLICT() assert(!(holds[0] && USABLE(0) && holds[1] && USABLE(1)))
#endif

#define ANY_AGE(what, c, age_, then)                  \
  :: d_step { (what[c] & (1 << (age_))) -> then(c, age_) }
#if TERM == 2
#define EACH_AGE(what, c, then) ANY_AGE(what, c, 0, then) ANY_AGE(what, c, 1, then)
#else
#define EACH_AGE(what, c, then) \
  ANY_AGE(what, c, 0, then) ANY_AGE(what, c, 1, then) ANY_AGE(what, c, 2, then)
#endif

/* What a process need not do it does not do; fairness makes it go on, unless it stops for ever. */
#ifdef FAIR
#define STOPS(c) :: c == 0 -> break
#else
#define STOPS(c)
#endif

/* ---- Time ---- */

active proctype time() {
  do
  :: d_step {
      age[0] = (age[0] < TERM -> age[0] + 1 : TERM);
      left[0] = (left[0] > 0 -> left[0] - 1 : 0);
      renewals[0] = (renewals[0] << 1) & ((1 << TERM) - 1);
      answers[0] = (answers[0] << 1) & ((1 << TERM) - 1)
    }
  od
}

/* ---- The clerk ---- */

inline renewed(c, age_) {
#ifdef FAULT_RENEWAL_COUNTED_FROM_REPLY
  age[0] = 0;
#else
  age[0] = (age_ < age[0] -> age_ : age[0]);
#endif
  CHECK_CONFLICT()
}

proctype clerk(byte c) {
  do
  :: d_step { !lost[c] && !holds[c] && !asked[c] && !release[c] && mods[c] < MODS ->
       mods[c]++;
       asked[c] = true }
  :: d_step { grant[c] && !lost[c] ->
       grant[c] = false;
       holds[c] = true;
       asked[c] = false;
       has_read[c] = 0;
       CHECK_CONFLICT() }
  :: d_step { holds[c] && USABLE(c) && !has_read[c] ->
       has_read[c] = 1;
       memory[c] = disk;
       assert(disk >= acknowledged || !RIGHTFUL(c)) }
  :: d_step { holds[c] && USABLE(c) && has_read[c] == 1 ->
       has_read[c] = 2;
       memory[c]++ }
  :: d_step { lost[c] -> holds[c] = false; asked[c] = false }
  STOPS(c)
  od
}

/* What is sent, by a clerk that is suspended as well. */
proctype writes(byte c) {
  do
  :: d_step { has_read[c] && holds[c] && !record[c] && !applying_record[c] && log[c] < memory[c] ->
       record[c] = memory[c] }
  :: d_step { has_read[c] && holds[c] && !block[c] && !applying_block[c] && disk < log[c] ->
       block[c] = log[c] }
#ifdef FAULT_RELEASE_BEFORE_FLUSH
  :: d_step { holds[c] && asked[OTHER(c)] && has_read[c] && !lost[c] &&
       log[c] >= memory[c] ->
#else
  :: d_step { holds[c] && asked[OTHER(c)] && !lost[c] &&
       (!has_read[c] || (disk == memory[c] && !block[c] && !applying_block[c] &&
         !record[c] && !applying_record[c])) ->
#endif
       holds[c] = false;
       release[c] = true }
  STOPS(c)
  od
}

proctype renews(byte c) {
  do
  :: d_step { !lost[c] && !(renewals[0] & 1) -> renewals[0] = renewals[0] | 1 }
  STOPS(c)
  od
}
proctype hears(byte c) {
  do
  EACH_AGE(answers, c, renewed)
  od
}
proctype hears_of_its_end(byte c) {
  d_step { state[c] >= EXPIRED -> lost[c] = true; holds[c] = false; asked[c] = false }
}

/* ---- The server ---- */

inline renew(c, age_) {
#ifdef FAULT_RENEWAL_ANSWERED_AFTER_EXPIRY
  left[0] = TERM;
  answers[0] = answers[0] | (1 << age_)
#else
  if
  :: state[c] == LIVE ->
    left[0] = TERM;
    answers[0] = answers[0] | (1 << age_)
  :: else
  fi
#endif
}
proctype answers_renewals(byte c) {
  do
  EACH_AGE(renewals, c, renew)
  od
}

proctype grants(byte c) {
  do
  :: d_step { release[c] -> release[c] = false;
       if
       :: holder == c && state[c] < DYING -> holder = NOBODY
       :: else
       fi }
  :: d_step { holder == NOBODY && asked[c] && !grant[c] && state[c] < DYING ->
       holder = c;
       grant[c] = true }
  od
}

/* The holder does not answer a revoke in time. */
#ifdef FAULT_ENDED_BEFORE_IT_RAN_OUT
#define CONDEMN(c) state[c] = DYING
#else
#define CONDEMN(c) state[c] = CONDEMNED
#endif
proctype loses_patience(byte c) {
  d_step { state[c] == LIVE && holder == c && asked[OTHER(c)] -> CONDEMN(c) }
}

inline give_to_others(c) {
  if
  :: holder == c -> holder = NOBODY
  :: else
  fi
}

inline replay(c) {
#ifdef FAULT_REPLAY_WITHOUT_VERSIONS
  disk = (log[c] -> log[c] : disk)
#else
  disk = (log[c] > disk -> log[c] : disk)
#endif
}

/* The order of death. */
proctype buries(byte c) {
  d_step { state[c] <= DYING && (EXPIRES(c) || state[c] == DYING) -> state[c] = DYING }
  state[c] = EXPIRED;
#ifdef FAULT_REPLAY_BEFORE_FENCE
  d_step { replay(c) }
#endif
#ifndef FAULT_NO_FENCE
  admitted[c] = false;
#endif
#ifdef FAULT_FENCE_DOES_NOT_WAIT
  state[c] = FENCED;
#else
  atomic { !applying_record[c] && !applying_block[c] -> state[c] = FENCED }
#endif
#ifdef FAULT_GRANT_BEFORE_REPLAY
  d_step { give_to_others(c) }
#endif
#ifndef FAULT_REPLAY_BEFORE_FENCE
  d_step { replay(c) }
#endif
  state[c] = REPLAYED;
  if
  :: skip
  :: d_step { replay(c) } /* A server that died in between is continued by another. */
  fi;
#ifdef FAULT_LOCKS_STAY_FROZEN
  state[c] = GONE
#else
  d_step { state[c] = GONE; give_to_others(c) }
#endif
}

/* ---- The disk ---- */

inline check_owner(c) {
  /* Somebody else has the lock: what this one sent comes too late. */
  assert(holder != OTHER(c))
}
proctype serves(byte c) {
  do
  :: d_step { record[c] ->
       if
       :: admitted[c] -> applying_record[c] = record[c]
       :: else -> lost[c] = true; holds[c] = false
       fi;
       record[c] = 0 }
  :: d_step { block[c] ->
       if
       :: admitted[c] -> applying_block[c] = block[c]
       :: else -> lost[c] = true; holds[c] = false
       fi;
       block[c] = 0 }
  :: d_step { applying_record[c] ->
       log[c] = applying_record[c];
       acknowledged = (log[c] > acknowledged -> log[c] : acknowledged);
       applying_record[c] = 0;
       check_owner(c) }
  :: d_step { applying_block[c] ->
       assert(applying_block[c] >= disk);
       disk = applying_block[c];
       applying_block[c] = 0;
       check_owner(c) }
  od
}

#ifdef FAIR
ltl progress { [] (asked[1] -> <> holds[1]) }
#endif

init {
  byte c;
  atomic {
    for (c : 0 .. 1) {
      run clerk(c);
      run writes(c);
      run grants(c);
      run serves(c)
    }
    run renews(0);
    run hears(0);
    run hears_of_its_end(0);
    run answers_renewals(0);
#ifndef FAULT_NO_REVOKE_DEADLINE
    run loses_patience(0);
#endif
    run buries(0);
    c = 0
  }
}
