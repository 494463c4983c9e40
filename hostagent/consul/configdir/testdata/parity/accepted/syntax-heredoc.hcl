service {
  name = <<EOF
web
EOF
  port = 8080
  meta {
    json = <<-EOF
      {"service": {"name": "not-one", "port": 1, "connect": {"sidecar_service": {}}}}
      EOF
  }
  connect {
    sidecar_service {}
  }
}
