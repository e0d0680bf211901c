/* Entry and hypercalls of the PV build: 64 bits, paging as the loader left it. */
#include "note.h"

    xen_note 1, .quad _start                /* entry */
    xen_note 2, .quad hypercall_page        /* the loader fills it */
    xen_note 3, .quad 0xffffffff80000000    /* virtual base */
    xen_note 4, .quad 0xffffffff80000000    /* offset of the ELF file's physical addresses */
    xen_note 5, .asciz "xen-3.0"
    xen_note 6, .asciz "tiny"
    xen_note 8, .asciz "generic"            /* loader */
    xen_note 9, .asciz "yes"                /* PAE */

    .text
    .globl _start
_start:
    cld
    lea stack_end(%rip), %rsp
    mov %rsi, %rdi                          /* start-info page */
    call tiny_main

/* long hypercall(number, first, second, third) */
    .globl hypercall
hypercall:
    shl $5, %rdi                            /* 32 bytes of code for each */
    lea hypercall_page(%rip), %rax
    add %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    jmp *%rax

    .balign 4096
hypercall_page:
    .skip 4096

    .bss
    .balign 16
    .skip 8192
stack_end:

    .section .note.GNU-stack, "", @progbits
