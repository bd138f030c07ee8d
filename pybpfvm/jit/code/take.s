; What has completed goes from the real ring into the CQs, until there is no more or Python has
; something to do: see ring.s. r8 to r9 is what is taken next, r0 the first free slot. As long as
; CQEs are for the CQ at r5 (0: for none yet), its tail stays in r7, and r9 is no farther than it
; has room.

take:       r1 = *(u64 *)(r6 + @CARE)
            if r1 & @HELD goto held
            r8 = *(u64 *)(r6 + @CQ_HEAD)
            r8 = *(u32 *)(r8 + 0)
            r9 = *(u64 *)(r6 + @CQ_TAIL)
            r9 = *(u32 *)(r9 + 0)
            if r8 == r9 goto nothing
            *(u64 *)(r6 + @TAKE_TO) = r9
            r0 = *(u64 *)(r6 + @FREE)
            r5 = 0
            r3 = *(u64 *)(r6 + @FIRST_CQ)
            if r3 != 0 goto enter
            goto cqe

            ; What is rare comes first, so that no jump but the loops' leads back: where one does, code
            ; is aligned, with instructions that do nothing.
full:       r4 = *(u64 *)(r6 + @QUEUE_TABLE)
            if r4 == r5 goto main_full
            r4 = *(u64 *)(r4 + @Q_HEADER)   ; an extra CQ: the CQE is dropped, and counted
            r3 = *(u32 *)(r4 + 44)
            r3 += 1
            *(u32 *)(r4 + 44) = r3
            r3 = *(u64 *)(r5 + @Q_DROPPED)
            r3 += 1
            *(u64 *)(r5 + @Q_DROPPED) = r3
            *(u64 *)(r2 + @S_PLACE) = 0
            *(u64 *)(r2 + @S_USER_DATA) = r0
            r0 = r2
            w8 += 1
            r5 = 0
            r1 = *(u64 *)(r6 + @TAKE_TO)
            if r8 != r1 goto cqe
            goto taken
main_full:  *(u64 *)(r6 + @STOP) = @FULL
            r5 = 0                          ; what stands there as its tail stays, whoever wrote it
            goto taken
other_cq:   if r3 s< 0 goto not_direct      ; Python's by now
            if r5 == 0 goto enter
            goto leave
not_direct: *(u64 *)(r6 + @STOP) = @FOREIGN
            r3 = *(u64 *)(r6 + @CQ_HEAD)
            r3 = *(u32 *)(r3 + 0)
            if r8 != r3 goto taken
            r5 = 0                          ; nothing was put into a CQ
            goto taken

cqe:        r1 = *(u64 *)(r6 + @CQ_MASK)
            r1 &= r8
            r1 <<= 4
            r2 = *(u64 *)(r6 + @CQES)
            r1 += r2                        ; the CQE
            r2 = *(u64 *)(r1 + 0)
            r3 = r2
            r3 >>= 48
            if r3 != 0x2000 goto not_direct ; DIRECT_TOKENS
            r2 <<= 16
            r2 >>= 16                       ; the slot
            r3 = *(u64 *)(r2 + @S_PLACE)    ; the CQ
            if r3 != r5 goto other_cq
            r3 = *(u64 *)(r5 + @Q_MASK)
            r3 &= r7
            r3 <<= 4
            r4 = *(u64 *)(r5 + @Q_CQES)
            r3 += r4                        ; where the CQE goes
            r4 = *(u64 *)(r2 + @S_USER_DATA)
            *(u64 *)(r3 + 0) = r4
            r4 = *(u64 *)(r1 + 8)
            *(u64 *)(r3 + 8) = r4
            w7 += 1
            *(u64 *)(r2 + @S_PLACE) = 0     ; the slot is free again
            *(u64 *)(r2 + @S_USER_DATA) = r0
            r0 = r2
            w8 += 1
            if r8 != r9 goto cqe
            r1 = *(u64 *)(r6 + @TAKE_TO)
            if r8 == r1 goto taken
            r3 = 1                          ; this CQ may be full, and the next CQE be for another
            goto leave
taken:      r3 = 0
            ; The CQ at r5 gets its tail. Then come the one at r3, or (1) the next CQE, or (0) the end.
leave:      if r5 == 0 goto left
            *(u64 *)(r5 + @Q_TAIL) = r7
            r4 = *(u64 *)(r5 + @Q_HEADER)
            *(u32 *)(r4 + 12) = r7
            r4 = *(u64 *)(r5 + @Q_WATCHED)
            if r4 == 0 goto left
            *(u64 *)(r6 + @STOP) = @WATCHED_QUEUE
left:       if r3 == 0 goto through
            r5 = 0
            if r3 == 1 goto cqe
enter:      r5 = r3
            r7 = *(u64 *)(r5 + @Q_TAIL)
            r3 = *(u64 *)(r5 + @Q_HEADER)
            r3 = *(u32 *)(r3 + 8)
            r4 = r7
            w4 -= w3                        ; CQEs that it holds: too many if somebody wrote its head
            r3 = *(u64 *)(r5 + @Q_ENTRIES)
            if r4 >= r3 goto full
            r3 -= r4                        ; its room
            r9 = *(u64 *)(r6 + @TAKE_TO)
            r4 = r9
            w4 -= w8
            if r4 <= r3 goto cqe            ; once more, and into it
            r9 = r8
            w9 += w3
            goto cqe

through:    *(u64 *)(r6 + @FREE) = r0
            r2 = *(u64 *)(r6 + @CQ_HEAD)
            r1 = *(u32 *)(r2 + 0)
            *(u32 *)(r2 + 0) = r8
            w8 -= w1                        ; so many have been taken
            if r8 == 0 goto nothing
            r1 = *(u64 *)(r6 + @DONE_TO)
            w1 += w8
            *(u64 *)(r6 + @DONE_TO) = r1
            r1 = *(u64 *)(r6 + @CHANGES)
            r1 += 1
            *(u64 *)(r6 + @CHANGES) = r1
nothing:    exit
held:       *(u64 *)(r6 + @STOP) = @FOREIGN ; Python's are first
            exit
