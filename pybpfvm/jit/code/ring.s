; The hot paths of BPF requests, for the engine's own use: unchecked, on true addresses.
; A name behind @ is a displacement from direct.Word, Queue, Slot (times 8), or a number from there.
; r6 is the block of direct.Word from beginning to end: nothing loads, changes or keeps it. The
; helpers take the registers that programs give.

; --- run the program, again and again, until there is a reason to stop ---------------------

loop:
again:      r1 = *(u64 *)(r6 + @CTX)
            r2 = *(u64 *)(r6 + @USER_DATA)
            *(u64 *)(r1 + 0) = r2
            r2 = *(u64 *)(r6 + @CTX_PERSISTS)
            if r2 != 0 goto run
            *(u64 *)(r1 + 8) = 0
run:        call 1                          ; run the program
            *(u64 *)(r6 + @R0) = r0
            r1 = *(u64 *)(r6 + @RUNS)
            r1 += 1
            *(u64 *)(r6 + @RUNS) = r1
            r2 = *(u64 *)(r6 + @TAIL)
            *(u64 *)(r6 + @TAKEN) = r2
            r3 = *(u64 *)(r6 + @ISSUED)
            if r2 == r3 goto issued
            call issue
issued:     call take
            ; does it want to run again, and when?
            r1 = *(u64 *)(r6 + @CTX)
            r7 = *(u32 *)(r1 + 8)           ; wait_nr
            r8 = *(u32 *)(r1 + 12)          ; wait_idx
            r2 = *(u64 *)(r6 + @WAIT_VALUE)
            if r2 == -1 goto asked          ; by the fields alone
            r0 = *(u32 *)(r6 + @R0)
            if r0 != r2 goto done
asked:      if r7 == 0 goto done
            r2 = *(u64 *)(r6 + @QUEUES)
            if r8 >= r2 goto done
            r2 = *(u64 *)(r6 + @STOP)
            if r2 != 0 goto out
            r8 <<= @QUEUE_SHIFT
            r2 = *(u64 *)(r6 + @QUEUE_TABLE)
            r8 += r2
wait:       r2 = *(u64 *)(r8 + @Q_TAIL)
            r1 = *(u64 *)(r8 + @Q_HEADER)
            r1 = *(u32 *)(r1 + 8)
            w2 -= w1                        ; CQEs that the queue holds
            if r2 >= r7 goto ready
            r2 = *(u64 *)(r6 + @TAIL)
            r1 = *(u64 *)(r6 + @DONE_TO)
            if r2 == r1 goto stuck          ; nothing is in flight
            r2 = *(u64 *)(r6 + @MAY_SLEEP)
            if r2 == 0 goto late
            r1 = 1
            call 2                          ; sleep until the real ring has a CQE
            if r0 s< 0 goto late
            call take
            r2 = *(u64 *)(r6 + @STOP)
            if r2 != 0 goto out
            call 6                          ; the time
            r1 = *(u64 *)(r6 + @DEADLINE)
            if r0 < r1 goto wait
            goto late
ready:      r1 = *(u64 *)(r6 + @CHANGES)
            r2 = *(u64 *)(r6 + @SEEN)
            if r1 == r2 goto idle
            *(u64 *)(r6 + @SEEN) = r1
            *(u64 *)(r6 + @IDLE) = 0
            *(u64 *)(r6 + @MEASURED) = 0
next:       r2 = *(u64 *)(r6 + @RUNS_LEFT)
            r2 += -1
            *(u64 *)(r6 + @RUNS_LEFT) = r2
            if r2 == 0 goto enough
            r2 = *(u64 *)(r6 + @LOOKS)
            r2 += -1
            *(u64 *)(r6 + @LOOKS) = r2
            if r2 != 0 goto again
            *(u64 *)(r6 + @LOOKS) = @LOOK_RUNS
            call 6                          ; the time
            r1 = *(u64 *)(r6 + @DEADLINE)
            if r0 < r1 goto again
            goto enough
            ; no request was issued or completed: does a queue hold more or fewer CQEs than before?
idle:       r1 = *(u64 *)(r6 + @IDLE)
            if r1 != 0 goto counted
            *(u64 *)(r6 + @IDLE_INSNS) = 0
counted:    r2 = *(u64 *)(r6 + @MOVED)
            if r2 == 0 goto same
            *(u64 *)(r6 + @MOVED) = 0
            call moved
            if r0 == 0 goto same
            *(u64 *)(r6 + @IDLE) = 0
            goto next
same:       r1 = *(u64 *)(r6 + @IDLE)
            r1 += 1
            *(u64 *)(r6 + @IDLE) = r1
            r2 = *(u64 *)(r6 + @IDLE_INSNS)
            r3 = *(u64 *)(r6 + @INSNS)
            r2 += r3
            *(u64 *)(r6 + @IDLE_INSNS) = r2
            r3 = *(u64 *)(r6 + @MOST_IDLE)
            if r1 >= r3 goto no_change
            r3 = *(u64 *)(r6 + @MOST_IDLE_INSNS)
            if r2 < r3 goto next
no_change:  *(u64 *)(r6 + @STOP) = @NO_CHANGE
            goto out
done:       *(u64 *)(r6 + @STOP) = @DONE
            goto out
enough:     *(u64 *)(r6 + @STOP) = @RUNS_MADE
            goto out
stuck:      *(u64 *)(r6 + @STOP) = @STUCK
            goto out
late:       *(u64 *)(r6 + @STOP) = @INTERRUPTED
out:        r0 = 0
            exit

; --- whether a queue holds more or fewer CQEs than at the end of any run since the last change ----

moved:      r0 = 0
            r5 = *(u64 *)(r6 + @MEASURED)
            *(u64 *)(r6 + @MEASURED) = 1
            r1 = *(u64 *)(r6 + @QUEUE_TABLE)
            r2 = *(u64 *)(r6 + @QUEUES)
queue:      r3 = *(u64 *)(r1 + @Q_TAIL)
            r4 = *(u64 *)(r1 + @Q_HEADER)
            r4 = *(u32 *)(r4 + 8)
            w3 -= w4
            if r5 == 0 goto first
            r4 = *(u64 *)(r1 + @Q_MOST)
            if r3 > r4 goto more
            r4 = *(u64 *)(r1 + @Q_LEAST)
            if r3 >= r4 goto measured
            *(u64 *)(r1 + @Q_LEAST) = r3
            r0 = 1
            goto measured
first:      *(u64 *)(r1 + @Q_LEAST) = r3
more:       *(u64 *)(r1 + @Q_MOST) = r3
            r0 = 1
measured:   r1 += @QUEUE_BYTES
            r2 += -1
            if r2 != 0 goto queue
            exit

; --- issue what is pending ------------------------------------------------------------------

issue:      r1 = *(u64 *)(r6 + @CHANGES)
            r1 += 1
            *(u64 *)(r6 + @CHANGES) = r1
            r2 = *(u64 *)(r6 + @TAIL)
            r4 = *(u64 *)(r6 + @SQ_TAIL)
            *(u32 *)(r4 + 0) = r2
            r1 = *(u64 *)(r6 + @ISSUED)
            w2 -= w1
            r1 = *(u64 *)(r6 + @FD)
            r3 = 0
            r4 = *(u64 *)(r6 + @ENTER_FLAGS)
            r5 = 0
            call 3                          ; io_uring_enter: how many were consumed
            if r0 s>= 0 goto some
            r0 = 0
some:       r1 = *(u64 *)(r6 + @ISSUED)
            w1 += w0
            *(u64 *)(r6 + @ISSUED) = r1
            r2 = *(u64 *)(r6 + @TAIL)
            if r1 == r2 goto all
            *(u64 *)(r6 + @STOP) = @INTERRUPTED
all:        exit

; --- submit(ctx, sqe, length) ----------------------------------------------------------------

; Only r0 to r5 are used, so nothing has to be kept: the context is in a word, and what was looked
; at is loaded again. r3 is the length until the request is admitted.

submit:     r0 = *(u64 *)(r6 + @CARE)
            if r0 == 0 goto sized
            if r0 & @PYTHONS goto slow
            if r0 == @HELD goto sized
            w0 = w3
            if r0 != 64 goto slow
sized:      include plain
admitted:   r1 = *(u16 *)(r2 + 48)          ; cq_idx
            r0 = *(u64 *)(r6 + @QUEUES)
            if r1 >= r0 goto slow
            r5 = *(u64 *)(r6 + @FREE)
            if r5 == 0 goto slow            ; all are in flight
            r0 = *(u64 *)(r5 + @S_USER_DATA)
            *(u64 *)(r6 + @FREE) = r0       ; the next free one
            r4 = *(u64 *)(r6 + @TAIL)
            r0 = *(u64 *)(r2 + 32)
            *(u64 *)(r5 + @S_USER_DATA) = r0
            r1 <<= @QUEUE_SHIFT
            r0 = *(u64 *)(r6 + @QUEUE_TABLE)
            r1 += r0
            r3 = *(u8 *)(r2 + 0)
            *(u64 *)(r5 + @S_PLACE) = r1
            r0 = r3
            r0 <<= @OPCODE_SHIFT
            r0 |= r4
            *(u64 *)(r5 + @S_NUMBER) = r0
            ; into the real ring
            r1 = *(u64 *)(r6 + @SQ_MASK)
            r1 &= r4
            r1 <<= 6
            r0 = *(u64 *)(r6 + @SQES)
            r1 += r0
            w4 += 1
            *(u64 *)(r6 + @TAIL) = r4
            ; loaded in the pieces that programs write: a wider load would wait for their stores
            r0 = *(u8 *)(r2 + 1)
            r0 <<= 8
            r3 |= r0
            r0 = *(u32 *)(r2 + 4)
            r0 <<= 32
            r3 |= r0
            *(u64 *)(r1 + 0) = r3           ; opcode, flags, no ioprio, fd
            r0 = *(u64 *)(r2 + 8)
            *(u64 *)(r1 + 8) = r0
            r0 = *(u64 *)(r2 + 16)
            *(u64 *)(r1 + 16) = r0
            r0 = *(u32 *)(r2 + 24)
            *(u64 *)(r1 + 24) = r0          ; length, no op_flags
            r0 = 0x2000000000000000 ll      ; DIRECT_TOKENS
            r5 |= r0
            *(u64 *)(r1 + 32) = r5
            r0 = *(u64 *)(r2 + 40)
            *(u64 *)(r1 + 40) = r0
            *(u64 *)(r1 + 48) = 0
            *(u64 *)(r1 + 56) = 0
            r0 = *(u64 *)(r6 + @TAKEN)
            w4 -= w0
            if r4 < @BATCH goto accepted
            r0 = *(u64 *)(r6 + @CARE)
            if r0 & @HELD goto sync         ; what completes at once comes after those
            call issue
            r2 = *(u64 *)(r6 + @TAIL)
            *(u64 *)(r6 + @TAKEN) = r2
            call take
            r2 = *(u64 *)(r6 + @STOP)
            if r2 == 0 goto accepted
sync:       call 9                          ; Python takes in what is left
accepted:   r0 = 1
            exit
slow:       r1 = *(u64 *)(r6 + @CTX)
            call 4                          ; the helper in Python
            exit

; --- emit(ctx, cq_idx, user_data, res, flags) ------------------------------------------------

emit:       r7 = *(u64 *)(r6 + @QUEUES)
            w8 = w2
            if r8 >= r7 goto no_queue
            r8 <<= @QUEUE_SHIFT
            r7 = *(u64 *)(r6 + @QUEUE_TABLE)
            r8 += r7
            r7 = *(u64 *)(r8 + @Q_HEADER)
            r9 = *(u32 *)(r7 + 8)
            r0 = *(u64 *)(r8 + @Q_TAIL)
            w0 -= w9
            r9 = *(u64 *)(r8 + @Q_ENTRIES)
            if r0 >= r9 goto no_room
            r0 = *(u64 *)(r8 + @Q_WATCHED)
            if r0 == 0 goto unwatched
            r0 = *(u64 *)(r6 + @CARE)
            if r0 & @PYTHONS goto emit_slow
            *(u64 *)(r6 + @STOP) = @WATCHED_QUEUE
unwatched:  r0 = *(u64 *)(r8 + @Q_TAIL)
            r9 = *(u64 *)(r8 + @Q_MASK)
            r9 &= r0
            r9 <<= 4
            w0 += 1
            *(u64 *)(r8 + @Q_TAIL) = r0
            r1 = *(u64 *)(r8 + @Q_CQES)
            r9 += r1
            *(u64 *)(r9 + 0) = r3
            w4 = w4
            r5 <<= 32
            r4 |= r5
            *(u64 *)(r9 + 8) = r4           ; res and flags, as they will be read
            *(u32 *)(r7 + 12) = r0
            *(u64 *)(r6 + @MOVED) = 1
            r0 = 0
            exit
no_queue:   r0 = -22
            exit
no_room:    r0 = *(u64 *)(r6 + @QUEUE_TABLE)
            if r0 == r8 goto emit_slow      ; CQ 0 has a backlog
            r0 = *(u64 *)(r0 + @Q_HEADER)
            r9 = *(u32 *)(r0 + 44)
            r9 += 1
            *(u32 *)(r0 + 44) = r9          ; dropped, and counted
            r9 = *(u64 *)(r8 + @Q_DROPPED)
            r9 += 1
            *(u64 *)(r8 + @Q_DROPPED) = r9
            r0 = -12
            exit
emit_slow:  call 5
            exit

; --- reap(ctx, cq_idx, out, length) ----------------------------------------------------------

; As submit, with r0 to r5 alone.

reap:       r0 = *(u64 *)(r6 + @CARE)
            if r0 & @CHECKED goto measure
long:       w2 = w2
            r0 = *(u64 *)(r6 + @QUEUES)
            if r2 >= r0 goto nowhere
            r2 <<= @QUEUE_SHIFT
            r0 = *(u64 *)(r6 + @QUEUE_TABLE)
            r2 += r0
            r1 = *(u64 *)(r2 + @Q_HEADER)
            r4 = *(u32 *)(r1 + 8)
            r0 = *(u64 *)(r2 + @Q_TAIL)
            if r0 == r4 goto empty
            r0 = *(u64 *)(r2 + @Q_MASK)
            r0 &= r4
            r0 <<= 4
            r5 = *(u64 *)(r2 + @Q_CQES)
            r0 += r5
            r5 = *(u64 *)(r0 + 0)
            *(u64 *)(r3 + 0) = r5
            r5 = *(u64 *)(r0 + 8)
            *(u64 *)(r3 + 8) = r5
            w4 += 1
            *(u32 *)(r1 + 8) = r4
            *(u64 *)(r6 + @MOVED) = 1
            r0 = 0
            exit
empty:      *(u64 *)(r3 + 0) = 0
            *(u64 *)(r3 + 8) = 0
            r0 = -2
            exit
nowhere:    *(u64 *)(r3 + 0) = 0
            *(u64 *)(r3 + 8) = 0
            r0 = -22
            exit
measure:    w4 = w4
            if r4 == 16 goto long
odd:        if r4 == 0 goto refused         ; as many zeroes as the program vouched for
            *(u8 *)(r3 + 0) = 0
            r3 += 1
            r4 += -1
            goto odd
refused:    r0 = -22
            exit

; --- copy_from_user(dst, size, user), copy_to_user(user, src, size) --------------------------
; What was submitted before is issued first: it may be about the same memory. The copies are user.s.

copy_from_user:
            r4 = *(u64 *)(r6 + @TAIL)
            r5 = *(u64 *)(r6 + @ISSUED)
            if r4 == r5 goto from_now
            r7 = r1
            r8 = r2
            r9 = r3
            call issue
            r1 = r7
            r2 = r8
            r3 = r9
from_now:   call from_user
            exit

copy_to_user:
            r4 = *(u64 *)(r6 + @TAIL)
            r5 = *(u64 *)(r6 + @ISSUED)
            if r4 == r5 goto to_now
            r7 = r1
            r8 = r2
            r9 = r3
            call issue
            r1 = r7
            r2 = r8
            r3 = r9
to_now:     call to_user
            exit
