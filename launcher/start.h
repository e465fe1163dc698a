// SPDX-License-Identifier: MIT
// _start for a program without libc: calls launch() with the stack as the kernel made it (argc,
// argv, environment, auxiliary vector; see "Process Initialization" in each architecture's System V
// ABI).
#pragma once

_Noreturn void launch(long *stack);

#if defined(__x86_64__)
__asm__(".text\n"
        ".globl _start\n"
        ".hidden _start\n"
        ".type _start, @function\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call launch\n"
        "    hlt\n");
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl _start\n"
        ".hidden _start\n"
        ".type _start, %function\n"
        "_start:\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, sp\n"
        "    and sp, x0, #-16\n"
        "    bl launch\n"
        "    brk #1\n");
#endif
