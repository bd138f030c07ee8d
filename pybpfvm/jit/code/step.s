; The loop of a program that drives a ring from inside io_uring_enter, for the engine's own use:
; unchecked, on true addresses. A name behind @ is as in ring.s; Q0_ is the ring's only CQ. What the
; program can write (both queues' heads and tails, the SQEs, the index array) is only ever masked or
; compared. uring_backend/loop/entering.py has the same loop in Python, step by step.

; --- run the program, again and again, until there is a reason to stop ---------------------
; It stops behind a run: the rest of that turn is Python's, which may do again what was done here.

loop:
again:      r1 = *(u64 *)(r6 + @CHANGES)
            *(u64 *)(r6 + @SEEN) = r1
            r1 = *(u64 *)(r6 + @CQ_REGION)
            r1 = *(u32 *)(r1 + 8)
            r2 = *(u64 *)(r6 + @Q0_TAIL)
            w2 -= w1
            *(u64 *)(r6 + @HELD_BEFORE) = r2
            r1 = *(u64 *)(r6 + @SHOWN_HEAD)
            if r1 == 0 goto run
            call show
run:        call 1                          ; run the program
            *(u64 *)(r6 + @R0) = r0
            r1 = *(u64 *)(r6 + @RUNS)
            r1 += 1
            *(u64 *)(r6 + @RUNS) = r1
            w0 = w0
            if r0 != 0 goto done            ; it does not go on
            r1 = *(u64 *)(r6 + @STOP)
            if r1 != 0 goto out
            r1 = *(u64 *)(r6 + @WAIT_INDEX)
            r0 = *(u32 *)(r1 + 0)
            r1 = *(u64 *)(r6 + @Q0_TAIL)
            w0 -= w1
            if w0 s<= 0 goto awake

            ; the program waits
            r8 = *(u64 *)(r6 + @CHANGES)
            call take
            r1 = *(u64 *)(r6 + @STOP)
            if r1 != 0 goto out
            r1 = *(u64 *)(r6 + @CHANGES)
            if r1 != r8 goto awake          ; there was work to do
            *(u64 *)(r6 + @ASLEEP) = 1
            call behind
asleep:     r1 = *(u64 *)(r6 + @TAIL)
            r2 = *(u64 *)(r6 + @DONE_TO)
            w1 -= w2
            if r1 == 0 goto stuck           ; nothing is in flight
            r2 = *(u64 *)(r6 + @MAY_SLEEP)
            if r2 == 0 goto late
            if r1 <= r0 goto sleep
            r1 = r0
sleep:      call 2                          ; until the real ring has so many CQEs
            if r0 s< 0 goto late
            call take
            r1 = *(u64 *)(r6 + @STOP)
            if r1 != 0 goto out
            call behind
            if w0 s<= 0 goto woken
            r7 = r0
            call 6                          ; the time
            r1 = *(u64 *)(r6 + @DEADLINE)
            if r0 >= r1 goto late
            r0 = r7
            goto asleep
woken:      *(u64 *)(r6 + @ASLEEP) = 0

awake:      r1 = *(u64 *)(r6 + @CQ_HEAD)
            r1 = *(u32 *)(r1 + 0)
            r2 = *(u64 *)(r6 + @CQ_TAIL)
            r2 = *(u32 *)(r2 + 0)
            if r1 == r2 goto flushed        ; nothing has completed meanwhile
            call take
            r1 = *(u64 *)(r6 + @STOP)
            if r1 != 0 goto out
flushed:    r1 = *(u64 *)(r6 + @CQ_REGION)
            r2 = *(u32 *)(r1 + 36)
            w2 &= @NO_OVERFLOW              ; nothing waits for room
            *(u32 *)(r1 + 36) = r2
            r1 = *(u64 *)(r6 + @RUNS)
            r2 = *(u64 *)(r6 + @RUNS_LEFT)  ; when the loop began
            if r1 >= r2 goto enough
            r1 &= @LOOK_MASK
            if r1 != 0 goto changed
            call 6                          ; the time
            r1 = *(u64 *)(r6 + @DEADLINE)
            if r0 >= r1 goto enough
            ; was a request issued or completed, does the CQ hold more or fewer than before the run?
changed:    r1 = *(u64 *)(r6 + @CHANGES)
            r2 = *(u64 *)(r6 + @SEEN)
            if r1 != r2 goto active
            r1 = *(u64 *)(r6 + @CQ_REGION)
            r1 = *(u32 *)(r1 + 8)
            r2 = *(u64 *)(r6 + @Q0_TAIL)
            w2 -= w1
            r1 = *(u64 *)(r6 + @HELD_BEFORE)
            if r1 != r2 goto active
            r1 = *(u64 *)(r6 + @IDLE)
            r1 += 1
            r2 = *(u64 *)(r6 + @MOST_IDLE)
            if r1 >= r2 goto no_change
            *(u64 *)(r6 + @IDLE) = r1
            goto again
active:     *(u64 *)(r6 + @IDLE) = 0
            goto again

done:       *(u64 *)(r6 + @STOP) = @DONE
            goto out
enough:     *(u64 *)(r6 + @STOP) = @RUNS_MADE
            goto out
no_change:  *(u64 *)(r6 + @STOP) = @NO_CHANGE
            goto out
stuck:      *(u64 *)(r6 + @STOP) = @STUCK
            goto out
late:       *(u64 *)(r6 + @STOP) = @INTERRUPTED
out:        r0 = 0
            exit

; --- how far the CQ's tail is behind the index that the program waits for: 32 bits, signed ----

behind:     r1 = *(u64 *)(r6 + @WAIT_INDEX)
            r0 = *(u32 *)(r1 + 0)
            r1 = *(u64 *)(r6 + @Q0_TAIL)
            w0 -= w1
            exit

; --- let the program, which sees the ring's struct, see how far the queues are: r1 is SHOWN_HEAD ---

show:       r2 = *(u64 *)(r6 + @HEAD)
            *(u32 *)(r1 + 0) = r2
            r1 = *(u64 *)(r6 + @SHOWN_TAIL)
            r2 = *(u64 *)(r6 + @Q0_TAIL)
            *(u32 *)(r1 + 0) = r2
            exit

; --- submit(ring, count): how many SQEs were consumed -----------------------------------------
; r7 is the real SQ's tail, r9 what it is behind the batch, r8 the CQ. As far as SQEs lie side by side
; in both queues, r2 is where one comes from (up to r4), r1 where it goes; r5 is the first free slot.

submit:     *(u64 *)(r6 + @ASKED) = r2
            w9 = w2
            r1 = *(u64 *)(r6 + @CARE)
            if r1 & @PYTHONS goto python
            r7 = *(u64 *)(r6 + @TAIL)
            *(u64 *)(r6 + @TAIL_BEFORE) = r7
            r3 = *(u64 *)(r6 + @ENTRIES)
            r8 = r7
            r1 = *(u64 *)(r6 + @REWINDS)
            if r1 != 0 goto counted
            r2 = *(u64 *)(r6 + @HEAD)
            w8 -= w2
            r1 = *(u64 *)(r6 + @CQ_REGION)
            r1 = *(u32 *)(r1 + 4)
            w1 -= w2
            if r1 >= r3 goto counted
            r3 = r1
counted:    if r9 <= r3 goto capped
            r9 = r3
capped:     if r9 == 0 goto consumed
            r1 = *(u64 *)(r6 + @SQ_MASK)
            if r9 > r1 goto python          ; more than the real SQ takes at a time
            r1 = r7
            r2 = *(u64 *)(r6 + @DONE_TO)
            w1 -= w2
            r1 += r9
            r2 = *(u64 *)(r6 + @ROOM)
            if r1 > r2 goto python
            *(u64 *)(r6 + @AHEAD) = r8
            w9 += w7
            r8 = *(u64 *)(r6 + @QUEUE_TABLE)
            goto piece

slow:       *(u64 *)(r6 + @TAIL) = r7
refused:    call put_back
            r0 = *(u64 *)(r6 + @ISSUED)
            r1 = *(u64 *)(r6 + @TAIL_BEFORE)
            if r0 != r1 goto consumed       ; some of the batch was
python:     r1 = *(u64 *)(r6 + @CTX)
            r1 = *(u64 *)(r1 + 0)           ; the ring
            r2 = *(u64 *)(r6 + @ASKED)
            call 4                          ; in Python, as if nothing had been tried
            exit

piece:      r5 = *(u64 *)(r6 + @FREE)
            r1 = *(u64 *)(r6 + @SQ_MASK)
            r0 = r1
            r1 &= r7
            r3 = *(u64 *)(r6 + @ENTRIES)
            r4 = *(u64 *)(r6 + @AHEAD)
            r2 = r7
            w2 -= w4
            r4 = r3
            r4 += -1
            r2 &= r4
            r4 = *(u64 *)(r6 + @ARRAY)
            if r4 == 0 goto direct
            r2 <<= 2
            r4 += r2
            r2 = *(u32 *)(r4 + 0)
            if r2 >= r3 goto slow           ; it names none
            r4 = 1
            goto placed
direct:     r4 = r9
            w4 -= w7
            r3 -= r2
            if r4 <= r3 goto fits
            r4 = r3
fits:       r0 -= r1
            r0 += 1
            if r4 <= r0 goto placed
            r4 = r0
placed:     r2 <<= 6
            r0 = *(u64 *)(r6 + @SQ_REGION)
            r2 += r0
            r4 <<= 6
            r4 += r2
            *(u64 *)(r6 + @PIECE_END) = r4
            r1 <<= 6
            r0 = *(u64 *)(r6 + @SQES)
            r1 += r0

            ; A NOP without any flag needs nothing else. Each part of it is loaded once, looked at and
            ; stored: a request in flight may write to the program's queue.
sqe:        r0 = *(u8 *)(r2 + 0)            ; alone, as programs write it: see below
            if r0 != 0 goto not_nop
            r0 = *(u64 *)(r2 + 0)
            if w0 != 0 goto not_nop        ; opcode, flags, ioprio
            *(u64 *)(r1 + 0) = r0
            r0 = *(u64 *)(r2 + 24)
            r3 = r0
            r3 >>= 32
            if r3 != 0 goto not_nop        ; op_flags
            *(u64 *)(r1 + 24) = r0
            r0 = *(u64 *)(r2 + 40)
            if r0 & -65536 goto not_nop    ; personality, file_index
            *(u64 *)(r1 + 40) = r0
            r0 = *(u64 *)(r2 + 56)
            if r0 != 0 goto not_nop        ; attributes
            *(u64 *)(r1 + 56) = r0
            if r5 == 0 goto not_nop        ; all are in flight
            r0 = *(u64 *)(r2 + 8)
            *(u64 *)(r1 + 8) = r0
            r0 = *(u64 *)(r2 + 16)
            *(u64 *)(r1 + 16) = r0
            r0 = *(u64 *)(r2 + 48)
            *(u64 *)(r1 + 48) = r0
            r3 = *(u64 *)(r5 + @S_USER_DATA) ; the next free one
            r0 = *(u64 *)(r2 + 32)
            *(u64 *)(r5 + @S_USER_DATA) = r0
            *(u64 *)(r5 + @S_NUMBER) = r7
            *(u64 *)(r5 + @S_PLACE) = r8
            r0 = 0x2000000000000000 ll      ; DIRECT_TOKENS
            r5 |= r0
            *(u64 *)(r1 + 32) = r5
            r5 = r3
            w7 += 1
            r1 += 64
            r2 += 64
            if r2 != r4 goto sqe
            goto through_it

            ; Any other is copied into the real ring, and looked at there. Loaded in the pieces that
            ; programs write: a wider load would wait for their stores.
not_nop:    *(u64 *)(r6 + @FREE) = r5
            *(u64 *)(r6 + @SQE_AT) = r2
            r3 = *(u8 *)(r2 + 0)
            r0 = *(u8 *)(r2 + 1)
            r0 <<= 8
            r3 |= r0
            r0 = *(u16 *)(r2 + 2)
            r0 <<= 16
            r3 |= r0
            r0 = *(u32 *)(r2 + 4)
            r0 <<= 32
            r3 |= r0
            *(u64 *)(r1 + 0) = r3
            r0 = *(u64 *)(r2 + 8)
            *(u64 *)(r1 + 8) = r0
            r0 = *(u64 *)(r2 + 16)
            *(u64 *)(r1 + 16) = r0
            r3 = *(u32 *)(r2 + 28)
            r3 <<= 32
            r0 = *(u32 *)(r2 + 24)
            r3 |= r0
            *(u64 *)(r1 + 24) = r3
            r0 = *(u64 *)(r2 + 32)
            *(u64 *)(r1 + 32) = r0
            r0 = *(u64 *)(r2 + 40)
            *(u64 *)(r1 + 40) = r0
            r0 = *(u64 *)(r2 + 48)
            *(u64 *)(r1 + 48) = r0
            r0 = *(u64 *)(r2 + 56)
            *(u64 *)(r1 + 56) = r0
            r2 = r1
            include plain
admitted:   r1 = *(u64 *)(r2 + 56)          ; attributes
            if r1 != 0 goto slow
            r5 = *(u64 *)(r6 + @FREE)
            if r5 == 0 goto slow            ; all are in flight
            r3 = *(u64 *)(r5 + @S_USER_DATA)
            r0 = *(u64 *)(r2 + 32)
            *(u64 *)(r5 + @S_USER_DATA) = r0
            r1 = *(u8 *)(r2 + 0)
            r1 <<= @OPCODE_SHIFT
            r1 |= r7
            *(u64 *)(r5 + @S_NUMBER) = r1
            *(u64 *)(r5 + @S_PLACE) = r8
            r0 = 0x2000000000000000 ll      ; DIRECT_TOKENS
            r5 |= r0
            *(u64 *)(r2 + 32) = r5
            r5 = r3
            w7 += 1
            r1 = r2
            r1 += 64
            r2 = *(u64 *)(r6 + @SQE_AT)
            r2 += 64
            r4 = *(u64 *)(r6 + @PIECE_END)
            if r2 != r4 goto sqe
through_it: *(u64 *)(r6 + @FREE) = r5
            if r7 != r9 goto piece

            *(u64 *)(r6 + @TAIL) = r7
            r4 = *(u64 *)(r6 + @SQ_TAIL)
            *(u32 *)(r4 + 0) = r7
            r2 = r7
            r1 = *(u64 *)(r6 + @ISSUED)
            w2 -= w1
            r1 = *(u64 *)(r6 + @FD)
            r3 = 0
            r4 = *(u64 *)(r6 + @ENTER_FLAGS)
            r5 = 0
            call 3                          ; io_uring_enter: how many were consumed
            if r0 s<= 0 goto refused
            r1 = *(u64 *)(r6 + @CHANGES)
            r1 += 1
            *(u64 *)(r6 + @CHANGES) = r1
            r1 = *(u64 *)(r6 + @ISSUED)
            w1 += w0
            *(u64 *)(r6 + @ISSUED) = r1
            r2 = *(u64 *)(r6 + @REWINDS)
            if r2 != 0 goto moved
            r2 = *(u64 *)(r6 + @HEAD)
            w2 += w0
            *(u64 *)(r6 + @HEAD) = r2
            r3 = *(u64 *)(r6 + @CQ_REGION)
            *(u32 *)(r3 + 0) = r2
moved:      if r1 == r7 goto consumed
            ; the kernel has stopped at an SQE that it can not prepare
            call put_back
            r7 = *(u64 *)(r6 + @TAIL)
            r1 = *(u64 *)(r6 + @SUBMITS_ALL)
            if r1 != 0 goto piece
consumed:   r9 = *(u64 *)(r6 + @ISSUED)
            r1 = *(u64 *)(r6 + @TAIL_BEFORE)
            w9 -= w1
            call take
            r1 = *(u64 *)(r6 + @STOP)
            if r1 == 0 goto submitted
            call 9                          ; Python takes in what is left
submitted:  r1 = *(u64 *)(r6 + @SHOWN_HEAD)
            if r1 == 0 goto unseen
            call show
unseen:     r0 = r9
            exit

; --- take what was not issued out of the real SQ again ------------------------------------------

put_back:   r1 = *(u64 *)(r6 + @TAIL)
            r2 = *(u64 *)(r6 + @ISSUED)
            r3 = *(u64 *)(r6 + @SQ_TAIL)
            *(u32 *)(r3 + 0) = r2
            *(u64 *)(r6 + @TAIL) = r2
one:        if r1 == r2 goto put
            w1 += -1
            r3 = *(u64 *)(r6 + @SQ_MASK)
            r3 &= r1
            r3 <<= 6
            r4 = *(u64 *)(r6 + @SQES)
            r3 += r4
            r3 = *(u64 *)(r3 + 32)
            r3 <<= 16
            r3 >>= 16                       ; the slot
            *(u64 *)(r3 + @S_PLACE) = 0
            r4 = *(u64 *)(r6 + @FREE)
            *(u64 *)(r3 + @S_USER_DATA) = r4
            *(u64 *)(r6 + @FREE) = r3
            goto one
put:        exit

; --- region(ring, id, bytes): its address, 0 if it is smaller or there is none -------------------

region:     w2 = w2
            if r2 == 1 goto region_1
            if r2 == 2 goto region_2
            if r2 != 0 goto no_region
            r0 = *(u64 *)(r6 + @REGION_0)
            r1 = *(u64 *)(r6 + @REGION_0_BYTES)
            goto sized
region_1:   r0 = *(u64 *)(r6 + @REGION_1)
            r1 = *(u64 *)(r6 + @REGION_1_BYTES)
            goto sized
region_2:   r0 = *(u64 *)(r6 + @REGION_2)
            r1 = *(u64 *)(r6 + @REGION_2_BYTES)
sized:      if r3 > r1 goto no_region
            exit
no_region:  r0 = 0
            exit
