# connect [block|nonblock] ADDRESS PORT, as connect.c does.
import errno, select, socket, sys

mode, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
try:
    if mode == "nonblock":
        s.setblocking(False)
        err = s.connect_ex((address, port))
        if err == errno.EINPROGRESS:
            select.select([], [s], [], 10)
            err = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if err:
            raise OSError(err, "")
        s.setblocking(True)
    else:
        s.connect((address, port))
except OSError as e:
    print("connect: errno", e.errno)
    sys.exit(1)
greeting = s.makefile().readline().strip()
peer = s.getpeername()
print(greeting, peer[0], peer[1])
