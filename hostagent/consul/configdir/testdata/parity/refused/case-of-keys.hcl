Services {
  NAME = "a"
  Port = 1
}
SERVICES {
  name = "b"
  port = 2
  Connect { SIDECAR_SERVICE {} }
}
