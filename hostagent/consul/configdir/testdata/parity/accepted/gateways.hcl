services {
  name = "mesh"
  kind = "mesh-gateway"
  port = 8443
  meta { consul-wan-federation = "1" }
}
services {
  name = "terminating"
  kind = "terminating-gateway"
  port = 8444
  proxy {
    config { bind_port = 8555 }
  }
}
services {
  name = "ingress"
  kind = "ingress-gateway"
}
services {
  name = "api"
  kind = "api-gateway"
}
