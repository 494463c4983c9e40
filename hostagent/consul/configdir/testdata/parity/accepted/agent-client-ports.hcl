node_name      = "client"
advertise_addr = "10.1.2.3"
ports {
  grpc             = 8502
  grpc_tls         = 8503
  https            = 8501
  serf_lan         = 9301
  serf_wan         = -1
  server           = 9300
  sidecar_min_port = 0
  sidecar_max_port = 0
}
