/* SPDX-License-Identifier: MIT */
/* A stand-in for libubpf: its entry points over an interpreter of a few instructions, so that our
 * adapter has something to talk to. "Compiled" is the same interpreter without checks. Programs
 * with anything else do not load. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct insn {
    uint8_t code, regs;
    int16_t off;
    int32_t imm;
};

typedef uint64_t (*helper_fn)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
typedef int (*print_fn)(void *stream, const char *format, ...);
typedef bool (*bounds_fn)(void *context, uint64_t addr, uint64_t size);

struct ubpf_vm {
    struct insn *code;
    size_t count;
    helper_fn helpers[64];
    print_fn print;
    bool checked;
    bounds_fn bounds;
    uint32_t limit;
};

static struct ubpf_vm *compiled;
int fake_alive; /* VMs that were made and not destroyed */

struct ubpf_vm *ubpf_create(void)
{
    fake_alive++;
    return calloc(1, sizeof(struct ubpf_vm));
}

void ubpf_destroy(struct ubpf_vm *vm)
{
    fake_alive--;
    free(vm->code);
    free(vm);
}

int ubpf_register(struct ubpf_vm *vm, unsigned index, const char *name, helper_fn function)
{
    if (index >= 64 || !name)
        return -1;
    vm->helpers[index] = function;
    return 0;
}

void ubpf_set_error_print(struct ubpf_vm *vm, print_fn print)
{
    vm->print = print;
}

bool ubpf_toggle_bounds_check(struct ubpf_vm *vm, bool enable)
{
    bool before = vm->checked;

    vm->checked = enable;
    return before;
}

int ubpf_register_data_bounds_check(struct ubpf_vm *vm, void *context, bounds_fn bounds)
{
    vm->bounds = bounds;
    return 0;
}

int ubpf_set_instruction_limit(struct ubpf_vm *vm, uint32_t limit, uint32_t *previous)
{
    vm->limit = limit;
    return 0;
}

static bool known(const struct insn *insn)
{
    static const uint8_t codes[] = {0x07, 0x0f, 0xb7, 0xbf, 0x18, 0x00, 0x79, 0x7b,
                                    0x7a, 0x05, 0x55, 0x15, 0x85, 0x95};

    return memchr(codes, insn->code, sizeof(codes));
}

int ubpf_load(struct ubpf_vm *vm, const void *code, uint32_t bytes, char **message)
{
    vm->count = bytes / 8;
    vm->code = malloc(bytes);
    memcpy(vm->code, code, bytes);
    for (size_t at = 0; at < vm->count; at++) {
        if (!known(&vm->code[at])) {
            *message = malloc(64);
            snprintf(*message, 64, "unknown opcode 0x%02x at PC %zu", vm->code[at].code, at);
            return -1;
        }
    }
    return 0;
}

static bool inside(uint64_t addr, const void *start, size_t bytes)
{
    return addr >= (uintptr_t)start && addr + 8 <= (uintptr_t)start + bytes;
}

static int run(const struct ubpf_vm *vm, bool checked, void *mem, size_t mem_bytes, uint64_t *result,
               uint8_t *stack, size_t stack_bytes)
{
    uint64_t regs[16] = {0}, left = vm->limit;

    regs[1] = (uintptr_t)mem;
    regs[2] = mem_bytes;
    regs[10] = (uintptr_t)stack + stack_bytes;
    for (size_t pc = 0; pc < vm->count; pc++) {
        const struct insn *insn = &vm->code[pc];
        uint64_t *dst = &regs[insn->regs & 15], *src = &regs[insn->regs >> 4], addr;

        if (checked && vm->limit && !left--) {
            vm->print(stderr, "limit of %u instructions\n", vm->limit);
            return -1;
        }
        switch (insn->code) {
        case 0x07: *dst += (int64_t)insn->imm; break;
        case 0x0f: *dst += *src; break;
        case 0xb7: *dst = (int64_t)insn->imm; break;
        case 0xbf: *dst = *src; break;
        case 0x18:
            *dst = (uint32_t)insn->imm | (uint64_t)(uint32_t)insn[1].imm << 32;
            pc++;
            break;
        case 0x79:
        case 0x7a:
        case 0x7b:
            addr = (insn->code == 0x79 ? *src : *dst) + insn->off;
            if (checked && !inside(addr, mem, mem_bytes) && !inside(addr, stack, stack_bytes) &&
                !vm->bounds(NULL, addr, 8)) {
                vm->print(stderr, "access at %p\n", (void *)(uintptr_t)addr);
                return -1;
            }
            if (insn->code == 0x79)
                memcpy(dst, (void *)(uintptr_t)addr, 8);
            else if (insn->code == 0x7b)
                memcpy((void *)(uintptr_t)addr, src, 8);
            else
                memcpy((void *)(uintptr_t)addr, &(int64_t){insn->imm}, 8);
            break;
        case 0x05: pc += insn->off; break;
        case 0x55: pc += *dst != (uint64_t)(int64_t)insn->imm ? insn->off : 0; break;
        case 0x15: pc += *dst == (uint64_t)(int64_t)insn->imm ? insn->off : 0; break;
        case 0x85:
            regs[0] = vm->helpers[insn->imm](regs[1], regs[2], regs[3], regs[4], regs[5]);
            break;
        case 0x95:
            *result = regs[0];
            return 0;
        }
    }
    vm->print(stderr, "ran out of the program\n");
    return -1;
}

int ubpf_exec_ex(const struct ubpf_vm *vm, void *mem, size_t mem_bytes, uint64_t *result,
                 uint8_t *stack, size_t stack_bytes)
{
    return run(vm, vm->checked, mem, mem_bytes, result, stack, stack_bytes);
}

static uint64_t entered(void *mem, size_t mem_bytes, uint8_t *stack, size_t stack_bytes)
{
    uint64_t result = 0;

    run(compiled, false, mem, mem_bytes, &result, stack, stack_bytes);
    return result;
}

void *ubpf_compile_ex(struct ubpf_vm *vm, char **message, int mode)
{
    if (mode != 0 || vm->checked) {
        *message = strdup("only without checks, on the caller's stack");
        return NULL;
    }
    compiled = vm;
    return (void *)entered;
}
