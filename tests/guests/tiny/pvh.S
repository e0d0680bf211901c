/* Entry and hypercalls of the PVH build: 32 bits, no paging, interrupts off. */
#include "note.h"

    xen_note 6, .asciz "tiny"
    xen_note 18, .long _start               /* physical 32-bit entry */

    .text
    .globl _start
_start:
    cld
    mov $stack_end, %esp
    push %ebx                               /* struct hvm_start_info */
    call tiny_main

/* long hypercall(number, first, second, third) */
    .globl hypercall
hypercall:
    push %ebx
    mov 8(%esp), %eax
    shl $5, %eax                            /* 32 bytes of code for each */
    add $hypercall_page, %eax
    mov 12(%esp), %ebx
    mov 16(%esp), %ecx
    mov 20(%esp), %edx
    call *%eax
    pop %ebx
    ret

    .globl hypercall_page
    .balign 4096
hypercall_page:
    .skip 4096

    .bss
    .balign 16
    .skip 8192
stack_end:

    .section .note.GNU-stack, "", @progbits
