// SPDX-License-Identifier: MIT

// net_bind ADDRESS:PORT...: listens as Go does, without the C library. Prints `ok` or the errno's text for each.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

func main() {
	for _, address := range os.Args[1:] {
		listener, err := net.Listen("tcp", address)
		var number syscall.Errno
		switch {
		case err == nil:
			fmt.Println("ok")
			listener.Close()
		case errors.As(err, &number) && number == syscall.EACCES:
			fmt.Println("EACCES")
		default:
			fmt.Println(err)
		}
	}
}
