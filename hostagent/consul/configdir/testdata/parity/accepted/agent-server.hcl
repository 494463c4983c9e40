server           = true
bootstrap_expect = 1
node_name        = "Server-1"
datacenter       = "EU-1"
node_id          = "11111111-AAAA-3333-4444-555555555555"
ports {
  https = 8501
  dns   = 0
  grpc  = 8502
}
service {
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
