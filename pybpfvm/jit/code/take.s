; Take in what has completed: CQEs of direct requests go from the real ring to their CQs, until
; there is none or Python has something to do (STOP says what). For ring.s and step.s.

take:       r1 = *(u64 *)(r6 + @CARE)
            if r1 & @HELD goto held
            r7 = *(u64 *)(r6 + @CQ_HEAD)
            r8 = *(u32 *)(r7 + 0)
            r9 = *(u64 *)(r6 + @CQ_TAIL)
            r9 = *(u32 *)(r9 + 0)
            if r8 == r9 goto nothing
cqe:        r1 = *(u64 *)(r6 + @CQ_MASK)
            r1 &= r8
            r1 <<= 4
            r2 = *(u64 *)(r6 + @CQES)
            r1 += r2                        ; the CQE
            r2 = *(u64 *)(r1 + 0)
            r3 = r2
            r3 >>= 48
            if r3 != 0x2000 goto foreign    ; DIRECT_TOKENS
            r2 <<= 16
            r2 >>= 16                       ; the slot
            r4 = *(u64 *)(r2 + @S_PLACE)
            if r4 s< 0 goto foreign         ; Python's by now
            r4 <<= 16
            r4 >>= 16                       ; the CQ
            r5 = *(u64 *)(r4 + @Q_HEADER)
            r3 = *(u64 *)(r4 + @Q_TAIL)
            r0 = r3
            r5 = *(u32 *)(r5 + 8)
            w0 -= w5
            r5 = *(u64 *)(r4 + @Q_ENTRIES)
            if r0 >= r5 goto full
            r5 = *(u64 *)(r4 + @Q_MASK)
            r5 &= r3
            r5 <<= 4
            r0 = *(u64 *)(r4 + @Q_CQES)
            r5 += r0                        ; where the CQE goes
            r0 = *(u64 *)(r2 + @S_USER_DATA)
            *(u64 *)(r5 + 0) = r0
            r0 = *(u64 *)(r1 + 8)
            *(u64 *)(r5 + 8) = r0
            w3 += 1
            *(u64 *)(r4 + @Q_TAIL) = r3
            r5 = *(u64 *)(r4 + @Q_HEADER)
            *(u32 *)(r5 + 12) = r3
            r0 = *(u64 *)(r4 + @Q_WATCHED)
            if r0 == 0 goto posted
            *(u64 *)(r6 + @STOP) = @WATCHED_QUEUE
posted:     *(u64 *)(r2 + @S_PLACE) = 0    ; the slot is free again
            r0 = *(u64 *)(r6 + @FREE)
            *(u64 *)(r2 + @S_USER_DATA) = r0
            *(u64 *)(r6 + @FREE) = r2
            w8 += 1
            if r8 != r9 goto cqe
            goto taken
full:       r5 = *(u64 *)(r6 + @QUEUE_TABLE)
            if r4 == r5 goto main_full
            r5 = *(u64 *)(r5 + @Q_HEADER)   ; an extra CQ: the CQE is dropped, and counted
            r3 = *(u32 *)(r5 + 44)
            r3 += 1
            *(u32 *)(r5 + 44) = r3
            r3 = *(u64 *)(r4 + @Q_DROPPED)
            r3 += 1
            *(u64 *)(r4 + @Q_DROPPED) = r3
            goto posted
main_full:  *(u64 *)(r6 + @STOP) = @FULL
            goto taken
foreign:    *(u64 *)(r6 + @STOP) = @FOREIGN
taken:      r1 = *(u32 *)(r7 + 0)
            *(u32 *)(r7 + 0) = r8
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
