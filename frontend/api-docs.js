// Shows the API. Descriptions are shown as they were written: Swagger UI would make HTML of them, which Trusted Types forbid.
// Nothing can be tried out, so nothing asks for a token: none is ever in a browser.
const place = document.getElementById("api-docs");
const asWritten = (_, { React }) => ({ source }) => (source ? React.createElement("p", null, source) : null);
const nothing = () => () => null;

SwaggerUIBundle({
  domNode: place,
  url: place.dataset.url,
  validatorUrl: null,
  supportedSubmitMethods: [],
  plugins: [
    () => ({
      wrapComponents: {
        Markdown: asWritten,
        AuthorizeBtnContainer: nothing,
        authorizeOperationBtn: nothing,
        ServersContainer: nothing,
        JsonSchemaForm: nothing, // fields to fill in, without a name that is read out
      },
    }),
  ],
});
