services {
  name    = "mesh"
  kind    = "mesh-gateway"
  port    = 8443
  address = "10.0.0.9"
  tagged_addresses {
    lan      { address = "10.0.0.9" port = 8443 }
    wan      { address = "192.0.2.9" port = 443 }
    lan_ipv4 { address = "10.0.0.9" port = 8444 }
  }
  proxy {
    config {
      envoy_gateway_bind_tagged_addresses = true
      envoy_gateway_no_default_bind       = "1"
      envoy_gateway_bind_addresses {
        public  { address = "0.0.0.0" port = 8445 }
        private = { Address = "10.1.0.9", PORT = "8446" }
        broken  = 7
      }
    }
  }
}
services {
  name    = "old"
  kind    = "terminating-gateway"
  port    = 8543
  address = "fd00::9"
  proxy {
    config {
      ENVOY_mesh_gateway_bind_addresses = { public = { address = "::", port = 8545 } }
      envoy_mesh_gateway_no_default_bind = 0
      bind_port = true
    }
  }
}
services {
  name    = "ingress"
  kind    = "ingress-gateway"
  address = "::ffff:10.0.0.9"
  proxy { config { envoy_gateway_bind_addresses { a { address = "10.0.0.9" } } } }
}
